"""Convert traces from request bodies to database rows, about a million per minute.

The fast reader accepts a subset of what `schema.ReasoningTrace` accepts, with the same result. For
other input it returns None, and callers must use `ReasoningTrace`, which can explain problems.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from tuneloop import jsonl
from tuneloop.store.db.tables import MAX_SOURCE_BYTES
from tuneloop.store.memory import decoding
from tuneloop.traces.fast import SentTrace, decode_trace, split_array
from tuneloop.traces.schema import MAX_JSON_DEPTH, MAX_META_BYTES, ReasoningTrace, prompt_key

_SPELLED_ALIKE = frozenset({str, int, bool, type(None)})
"""JSON values that all JSON writers spell alike. Floats are not among them: one writer spells
`1e+16` what another spells `1e16`."""


class NewTrace(NamedTuple):
    """One trace, ready to be stored."""

    trace_version: str
    source: str | None
    """`meta.source`; None if it is not text, or too long for the index."""
    meta: str | None
    """Meta as canonical JSON; None if the trace has none."""
    reward: float | None
    prompt_key: str
    """What all traces of one prompt share; see `schema.prompt_key`."""
    payload: str
    """The whole trace as canonical JSON, meta included."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


class _Slow(Exception):
    """The fast reader cannot decide about this body."""


def fast_trace(body: bytes) -> NewTrace | None:
    """Read one trace; returns None if only `ReasoningTrace` can read it or explain the problem."""
    batch = _fast(lambda: [body], body)
    return batch[0] if batch else None


def fast_array(body: bytes) -> list[NewTrace] | None:
    """Read a JSON array of traces; returns None if `fast_trace` would for any of them."""
    return _fast(lambda: split_array(body), body)


def fast_lines(body: bytes) -> list[NewTrace] | None:
    """Read one trace per line; returns None if `fast_trace` would for any of them."""
    return _fast(lambda: (line for line in io.BytesIO(body) if not line.isspace()), body)


def explain(body: bytes) -> str:
    """Return what the fast reader objects to, as the end of a sentence; empty if unknown."""
    try:
        decode_trace(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        return f": {e}"
    return ""


def new_trace(trace: ReasoningTrace) -> NewTrace:
    """Convert a validated trace to the form that is stored."""
    meta = None if trace.meta is None else jsonl.dump_line(trace.meta).decode()[:-1]
    written = trace.model_dump()
    payload = jsonl.dump_line(written).decode()[:-1]
    source = source_for_index((trace.meta or {}).get("source"))
    key = prompt_key(trace.prompt, trace.system, written.get("messages"))
    return NewTrace(trace.trace_version, source, meta, trace.reward, key, payload)


def _fast(split: Callable[[], Iterable[bytes | Raw]], body: bytes) -> list[NewTrace] | None:
    # The body may contain NUL, or only an escaped backslash followed by "u0000".
    if b"\\u0000" in body:
        return None
    try:
        # Only one trace at a time is in memory as objects, which take far more than its JSON.
        return [_written(decode_trace(one)) for one in split()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Slow):
        return None


def _written(trace: SentTrace) -> NewTrace:
    if trace.is_chat:
        raise _Slow
    if len(trace.steps) > 1 and len({step.i for step in trace.steps}) < len(trace.steps):
        raise _Slow
    meta_bytes = len(memoryview(trace.meta))
    if meta_bytes > MAX_META_BYTES:
        raise _Slow
    with decoding(meta_bytes):
        return _with_meta(trace)


def _with_meta(trace: SentTrace) -> NewTrace:
    meta = _decode(trace.meta)
    key = prompt_key(trace.prompt)
    if meta is None:
        return NewTrace(trace.trace_version, None, None, None, key, _encode(trace).decode())
    if type(meta) is not dict:
        raise _Slow
    text = _encode(meta) if _is_spelled_alike(meta) else jsonl.dump_line(meta)[:-1]
    trace.meta = Raw(text)
    source = source_for_index(meta.get("source"))
    payload = _encode(trace).decode()
    return NewTrace(trace.trace_version, source, text.decode(), None, key, payload)


def _is_spelled_alike(meta: Mapping[str, Any]) -> bool:
    """Return whether meta contains no float at any depth."""
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
    """Return `meta.source` for its column; None if it is not text, or too long for the index."""
    if isinstance(source, str) and len(source.encode()) <= MAX_SOURCE_BYTES:
        return source
    return None
