"""The table of trace file formats that `tuneloop traces import` reads.

To add a format, write a function in a new module of this package and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Convert = Callable[[Mapping[str, Any], str], Mapping[str, Any]]
"""(one JSON object of the file, `FILE:line`) -> the trace in it, not validated yet.

Raises DataError if the object does not have the expected format.
"""


@dataclass(frozen=True)
class Importer:
    """One row of the table."""

    convert: Callable[[], Convert]
    """Import the format's module and return its function."""
    description: str
    """Content of a line of the file; shown by `--help`."""


def _trace() -> Convert:
    return lambda value, place: value


def _messages() -> Convert:
    from tuneloop.traces.importers.messages import trace_of_record

    return trace_of_record


IMPORTERS: dict[str, Importer] = {
    "trace": Importer(_trace, "a trace, as `traces export` prints it"),
    "messages": Importer(_messages, "chat messages, or prompt and completion"),
}
"""Formats by name. This module imports nothing heavy, because `tuneloop --help` imports it."""
