"""Import format `trace`: traces as `traces export` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.schema import ReasoningTrace, TraceStep

_KEYS = frozenset(ReasoningTrace.model_fields)
_STEP_KEYS = frozenset(TraceStep.model_fields)


def trace_of_trace(value: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return a trace as it is; keys that a trace does not have are kept in meta.

    Args:
        value: the record, such as a trace or a row of an exported dataset.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: a step has an unknown key, or meta has a key that would be replaced.
    """
    steps = value.get("steps")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and not step.keys() <= _STEP_KEYS:
            unknown = min(step.keys() - _STEP_KEYS)
            raise DataError(
                f"{place}: a step has the unknown key {unknown}, expected only"
                f" {', '.join(sorted(_STEP_KEYS))}; remove the key, or move it to meta"
            )
    if value.keys() <= _KEYS:
        return value
    trace = {key: each for key, each in value.items() if key in _KEYS}
    meta, more = trace.get("meta"), {key: value[key] for key in value if key not in _KEYS}
    if meta is not None and not isinstance(meta, dict):
        return trace  # the validation of the trace explains it
    if both := sorted((meta or {}).keys() & more.keys()):
        raise DataError(
            f"{place}: {both[0]} is a key beside meta and in meta, expected one of them; rename or"
            " remove one"
        )
    trace["meta"] = {**(meta or {}), **more}
    return trace
