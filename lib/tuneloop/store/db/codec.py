"""Traces as they go into the database: bytes in, canonical text out, a million a minute.

The fast reader accepts part of what `schema.ReasoningTrace` accepts and reads it the same way. It
returns None for the rest, which `ReasoningTrace` has to read: only that one explains what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from tuneloop import jsonl
from tuneloop.store.db.tables import MAX_SOURCE_BYTES
from tuneloop.traces.fast import SentTrace, decode_array, decode_lines, decode_trace
from tuneloop.traces.schema import MAX_JSON_DEPTH, ReasoningTrace

_SPELLED_ALIKE = frozenset({str, int, bool, type(None)})
"""JSON values that every writer spells the same way; floats it does not, `1e+16` and `1e16`."""


class NewTrace(NamedTuple):
    """One trace, ready to be stored."""

    trace_version: str
    source: str | None
    """`meta.source`, where it is a text that an index takes."""
    meta: str | None
    """Canonical JSON."""
    payload: str
    """Canonical JSON of the whole trace, meta included."""


_encode = msgspec.json.Encoder(order="deterministic").encode


class _Slow(Exception):
    """The other reader has to look at this body."""


def fast_trace(body: bytes) -> NewTrace | None:
    """Read one trace; None where it is wrong or odd."""
    batch = _fast(lambda: [decode_trace(body)], body)
    return batch[0] if batch else None


def fast_array(body: bytes) -> list[NewTrace] | None:
    """Read a JSON array of traces; None where something in it is wrong or odd."""
    return _fast(lambda: decode_array(body), body)


def fast_lines(body: bytes) -> list[NewTrace] | None:
    """Read one trace a line; None where something in it is wrong or odd."""
    return _fast(lambda: decode_lines(body), body)


def new_trace(trace: ReasoningTrace) -> NewTrace:
    """Write a trace that pydantic has read."""
    meta = None if trace.meta is None else jsonl.dump_line(trace.meta).decode()[:-1]
    payload = jsonl.dump_line(trace.model_dump()).decode()[:-1]
    source = source_for_index((trace.meta or {}).get("source"))
    return NewTrace(trace.trace_version, source, meta, payload)


def _fast(decode: Any, body: bytes) -> list[NewTrace] | None:
    if b"\\u0000" in body:  # NUL in a text, or a backslash before these five characters
        return None
    try:
        return [_written(trace) for trace in decode()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Slow):
        return None


def _written(trace: SentTrace) -> NewTrace:
    if len(trace.steps) > 1 and len({step.i for step in trace.steps}) < len(trace.steps):
        raise _Slow
    meta = trace.meta
    if meta is None:
        return NewTrace(trace.trace_version, None, None, _encode(trace).decode())
    if type(meta) is not dict:
        raise _Slow
    text = _encode(meta) if _is_spelled_alike(meta) else jsonl.dump_line(meta)[:-1]
    trace.meta = Raw(text)
    source = source_for_index(meta.get("source"))
    return NewTrace(trace.trace_version, source, text.decode(), _encode(trace).decode())


def _is_spelled_alike(meta: Mapping[str, Any]) -> bool:
    """Whether no float stands in it, at any depth."""
    nested = [value for value in meta.values() if type(value) not in _SPELLED_ALIKE]
    alike, depth = True, 1
    while nested:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise _Slow
        found = []
        for value in nested:
            if type(value) is float:
                alike = False
                continue
            inner = value.values() if type(value) is dict else value
            found += [child for child in inner if type(child) not in _SPELLED_ALIKE]
        nested = found
    return alike


def source_for_index(source: object) -> str | None:
    """A `meta.source` as its column holds it; None where it is no text, or a long one."""
    if isinstance(source, str) and len(source.encode()) <= MAX_SOURCE_BYTES:
        return source
    return None
