"""The table of trace file formats that `tuneloop traces import` reads.

To add a format, write a function in a module of its own beside this one and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Convert = Callable[[Mapping[str, Any], str], Mapping[str, Any]]
"""(one JSON object of the file, `FILE:line`) -> the trace in it, not validated yet.

Raises DataError if the object holds no trace.
"""


@dataclass(frozen=True)
class Importer:
    """One row of the table."""

    convert: Callable[[], Convert]
    """Import the format's module and return its function."""
    description: str
    """What a line of the file holds; shown by `--help`."""


def _trace() -> Convert:
    return lambda value, place: value


def _messages() -> Convert:
    from tuneloop.traces.importers.messages import trace_of_record

    return trace_of_record


IMPORTERS: dict[str, Importer] = {
    "trace": Importer(_trace, "a trace, as `traces export` prints it"),
    "messages": Importer(_messages, "chat messages, or prompt and completion"),
}
"""Every format by name. This module stays light: `tuneloop --help` reads it."""
