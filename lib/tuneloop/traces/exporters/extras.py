"""What an exported record does not hold, so that an import gives the same trace again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.jsonl import dump_line
from tuneloop.traces.importers.chat import EXTRAS
from tuneloop.traces.importers.table import Convert


def extras_of(
    trace: Mapping[str, Any], record: Mapping[str, Any], convert: Convert
) -> dict[str, Any]:
    """Compare a trace with what an import would make of its record.

    Args:
        trace: the trace.
        record: the record without extras.
        convert: the function that imports records of this format.

    Returns:
        Field of the trace -> its value, for each field that the import would make different; None
        removes the field. Empty if the record holds everything, and the whole trace if the record
        alone could not be imported.
    """
    try:
        made = convert(record, "export")
    except DataError:
        return {name: value for name, value in trace.items() if value is not None}
    names = sorted(trace.keys() | made.keys())
    return {name: trace.get(name) for name in names if not _same(trace.get(name), made.get(name))}


def _same(one: Any, other: Any) -> bool:
    # Python considers True, 1 and 1.0 equal, and JSON does not.
    return one == other and dump_line({"": one}) == dump_line({"": other})


def with_extras(
    trace: Mapping[str, Any], record: dict[str, Any], convert: Convert
) -> dict[str, Any]:
    """Return a record with its extras as JSON text, which every table can hold in one column.

    Args:
        trace: the trace.
        record: the record without extras.
        convert: the function that imports records of this format.
    """
    text = dump_line(extras_of(trace, record, convert)).decode().rstrip("\n")
    return {**record, EXTRAS: text}
