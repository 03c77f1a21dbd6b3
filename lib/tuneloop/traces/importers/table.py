"""The table of record formats that `tuneloop traces import` reads.

To add a format, write a function in a new module of this package, add a row, and a section to
docs/how-to/import.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Convert = Callable[[Mapping[str, Any], str], Mapping[str, Any]]
"""(one record of the file, its place) -> the trace in it, not validated yet.

Raises DataError if the record does not have the expected format.
"""
Split = Callable[[Mapping[str, Any], str], Iterator[tuple[str, Mapping[str, Any] | None]]]
"""(one record of the file, its place) -> place and record of each part; None is no trace."""


@dataclass(frozen=True)
class Importer:
    """One row of the table."""

    convert: Callable[[], Convert]
    """Import the format's module and return its function."""
    description: str
    """Content of a record of the file; shown by `--help`."""
    split: Callable[[], Split] | None = None
    """Import the function that splits a record with several traces; None if a record is one."""


def _trace() -> Convert:
    from tuneloop.traces.importers.native import trace_of_trace

    return trace_of_trace


def _messages() -> Convert:
    from tuneloop.traces.importers.messages import trace_of_messages

    return trace_of_messages


def _sharegpt() -> Convert:
    from tuneloop.traces.importers.sharegpt import trace_of_sharegpt

    return trace_of_sharegpt


def _alpaca() -> Convert:
    from tuneloop.traces.importers.alpaca import trace_of_alpaca

    return trace_of_alpaca


def _pair() -> Convert:
    from tuneloop.traces.importers.prompt_completion import trace_of_pair

    return trace_of_pair


def _gsm8k() -> Convert:
    from tuneloop.traces.importers.gsm8k import trace_of_gsm8k

    return trace_of_gsm8k


def _atif() -> Convert:
    from tuneloop.traces.importers.atif import trace_of_trajectory

    return trace_of_trajectory


def _span() -> Convert:
    from tuneloop.traces.importers.otel import trace_of_span

    return trace_of_span


def _spans() -> Split:
    from tuneloop.traces.importers.otel import spans_of_record

    return spans_of_record


IMPORTERS: dict[str, Importer] = {
    "trace": Importer(_trace, "a trace, as `traces export` prints it"),
    "messages": Importer(_messages, "messages of OpenAI's chat API"),
    "sharegpt": Importer(_sharegpt, "conversations of ShareGPT"),
    "alpaca": Importer(_alpaca, "instruction, input and output"),
    "prompt_completion": Importer(_pair, "prompt and completion, as text or messages"),
    "gsm8k": Importer(_gsm8k, "question, and an answer with ####"),
    "atif": Importer(_atif, "a trajectory of Harbor's ATIF 1.8"),
    "otel": Importer(_span, "OpenTelemetry spans of generative AI", _spans),
}
"""Formats by name. This module imports nothing heavy, because `tuneloop --help` imports it."""
