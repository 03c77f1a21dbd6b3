"""Read request bodies within a size limit, parse them fast, and explain invalid ones.

Any body, however invalid, gets a reply of valid JSON and bounded size.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from msgspec import Raw
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import ClientDisconnect

from tuneloop.store.db.codec import (
    NewTrace,
    explain,
    fast_array,
    fast_lines,
    fast_trace,
    new_trace,
)
from tuneloop.store.memory import decoding
from tuneloop.store.routes.examples import to_line
from tuneloop.traces.fast import split_array
from tuneloop.traces.schema import MAX_META_BYTES, ReasoningTrace
from tuneloop.validation import shorten

NDJSON = "application/x-ndjson"
MAX_TRACE_BYTES = 1_048_576
MAX_BATCH_BYTES = 64 << 20
MAX_LABELS_BYTES = 8 << 20
"""Maximum size of a batch of labels or scores."""
BODY_BYTES = {
    "/api/traces/batch": MAX_BATCH_BYTES,
    "/api/labels/batch": MAX_LABELS_BYTES,
    "/api/scores/batch": MAX_LABELS_BYTES,
    "": MAX_TRACE_BYTES,
}
"""Maximum size of a body by path; `""` is for all other paths."""
MAX_BATCH_TRACES = 1000
MAX_ERRORS = 100
"""Maximum number of problems in one reply."""
_ECHO_CHARS = 1000
_BOM = b"\xef\xbb\xbf"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

T = TypeVar("T")
_one = TypeAdapter(ReasoningTrace)
# The limit is part of the type, so that parsing stops at it. Otherwise 64 MiB of `0,` would give 32
# million errors.
_many = TypeAdapter(Annotated[list[ReasoningTrace], Field(max_length=MAX_BATCH_TRACES)])


class Refused(Exception):
    """A body is invalid; the reply is 422 with a list of problems in FastAPI's format."""

    def __init__(self, details: list[dict[str, Any]]) -> None:
        """Keep the list of problems for the reply."""
        super().__init__(f"{len(details)} faults")
        self.details = details


async def read(request: Request, limit_bytes: int) -> bytes:
    """Read a body, and stop as soon as it exceeds the limit, even if its header claims less."""
    too_long = HTTPException(413, f"Payload size exceeds maximum of {limit_bytes} bytes")
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed[:20]) > limit_bytes:
        raise too_long
    body = io.BytesIO()
    try:
        async for chunk in request.stream():
            if body.tell() + len(chunk) > limit_bytes:
                raise too_long
            body.write(chunk)
    except ClientDisconnect as e:
        raise HTTPException(400, "The connection closed before the body was complete") from e
    return body.getvalue()  # This does not copy the bytes.


async def _checked_key(
    key: Annotated[
        str | SkipJsonSchema[None],
        Header(
            alias="Idempotency-Key",
            description="Makes a retry safe. Repeating a key with the same body stores nothing"
            " twice; traces that were deleted since are stored again. A key used for another body"
            " is refused with 409.",
            examples=["file/3c1f/0"],
            json_schema_extra={"pattern": "^[!-~]{1,255}$"},
        ),
    ] = None,
) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        raise HTTPException(422, "Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


IdempotencyKey = Annotated[str | None, Depends(_checked_key)]
"""Value of the header Idempotency-Key; None without it."""


def is_ndjson(request: Request) -> bool:
    """Return whether the Content-Type is NDJSON."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == NDJSON


def parse(adapter: TypeAdapter[T], body: bytes) -> T:
    """Parse one object."""
    try:
        return adapter.validate_json(body.removeprefix(_BOM))
    except ValidationError as e:
        raise Refused(_details(e)) from e


def parse_trace(body: bytes) -> NewTrace:
    """Parse one trace."""
    body = body.removeprefix(_BOM)
    if (found := fast_trace(body)) is not None:
        return found
    with decoding(len(body)):
        return new_trace(parse(_one, body))


def parse_array(body: bytes) -> list[NewTrace]:
    """Parse a JSON array of traces."""
    body = body.removeprefix(_BOM)
    try:
        elements = split_array(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        if len(body) > MAX_META_BYTES:
            raise Refused([_fault("json_invalid", (), f"Invalid JSON: {e}")]) from e
        with decoding(len(body)):
            batch = [new_trace(trace) for trace in _parse_array(body)]
        _check_count(len(batch))
        return batch
    _check_count(len(elements))
    return fast_array(body) or _parse_each(elements)


def _parse_array(body: bytes) -> list[ReasoningTrace]:
    try:
        return _many.validate_json(body)
    except ValidationError as e:
        for fault in e.errors(include_input=False, include_url=False):
            if fault["type"] == "too_long" and not fault["loc"]:
                _check_count(fault["ctx"]["actual_length"])
        raise Refused(_details(e)) from e


def parse_lines(body: bytes) -> list[NewTrace]:
    """Parse one trace per line; blank lines are accepted."""
    body = body.removeprefix(_BOM)
    _check_count(sum(not line.isspace() for line in io.BytesIO(body)))
    return fast_lines(body) or _parse_each(n for n in io.BytesIO(body) if not n.isspace())


def _parse_each(elements: Iterable[bytes | Raw]) -> list[NewTrace]:
    """Parse traces one by one, and explain those that are invalid."""
    batch: list[NewTrace] = []
    faults: list[dict[str, Any]] = []
    for index, element in enumerate(elements):
        try:
            batch.append(_parse_element(bytes(element)))
        except ValidationError as e:
            faults += _details(e, index)
        except _TooComplex as e:
            faults.append(_fault("value_error", (index,), str(e)))
        if len(faults) >= MAX_ERRORS:
            break
    if faults:
        raise Refused(faults[:MAX_ERRORS])
    return batch


class _TooComplex(Exception):
    """A trace is too large to be explained."""


def _parse_element(element: bytes) -> NewTrace:
    trace = fast_trace(element)
    if trace is not None:
        return trace
    if len(element) > MAX_META_BYTES:
        raise _TooComplex(
            f"a trace of more than {MAX_META_BYTES} bytes must have the documented types, a meta of"
            f" at most {MAX_META_BYTES} bytes and no NUL{explain(element)}"
        )
    with decoding(len(element)):
        return new_trace(_one.validate_json(element))


def parse_small(
    adapter: TypeAdapter[T], body: bytes, what: str, *, is_lines: bool = False
) -> list[T]:
    """Parse a batch of small objects, and explain the first ones that are invalid.

    Args:
        adapter: adapter of one object.
        body: a JSON array, or one object per line.
        what: name of an object, for error messages.
        is_lines: whether the body has one object per line; blank lines are accepted.
    """
    body = body.removeprefix(_BOM)
    elements: Sequence[bytes | Raw]
    if is_lines:
        elements = [line for line in io.BytesIO(body) if not line.isspace()]
    else:
        try:
            elements = split_array(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise Refused([_fault("json_invalid", (), f"Invalid JSON: {e}")]) from e
    _check_count(len(elements), what)
    batch: list[T] = []
    faults: list[dict[str, Any]] = []
    for index, element in enumerate(elements):
        try:
            batch.append(adapter.validate_json(bytes(element)))
        except ValidationError as e:
            faults += _details(e, index)
        if len(faults) >= MAX_ERRORS:
            break
    if faults:
        raise Refused(faults[:MAX_ERRORS])
    return batch


def _check_count(count: int, what: str = "trace") -> None:
    if count == 0:
        raise HTTPException(400, f"Batch must contain at least one {what}")
    if count > MAX_BATCH_TRACES:
        raise HTTPException(400, f"Batch size ({count}) exceeds maximum ({MAX_BATCH_TRACES})")


def _fault(kind: str, place: tuple[int, ...], words: str) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *place], "msg": words, "input": {}}


def _details(error: ValidationError, *place: int) -> list[dict[str, Any]]:
    faults = error.errors(include_url=False)[:MAX_ERRORS]
    return [_detail(dict(fault), ["body", *place]) for fault in faults]


def _detail(fault: dict[str, Any], place: Sequence[str | int]) -> dict[str, Any]:
    """Convert one problem to FastAPI's format, with a bounded size."""
    steps = [part if isinstance(part, int) else part[:200] for part in fault["loc"]]
    message = fault["msg"]
    if fault["type"] == "json_invalid":
        fault["input"] = {}  # It would otherwise be the whole body.
        if "trailing characters" in message:
            message += f"; send one object per line as Content-Type: {NDJSON} to /api/traces/batch"
    detail = {
        "type": fault["type"],
        "loc": [*place, *steps],
        "msg": message,
        "input": _echo(fault.get("input")),
    }
    if "ctx" in fault:
        detail["ctx"] = {name: _echo(value) for name, value in fault["ctx"].items()}
    return detail


def _echo(value: Any) -> Any:
    """Return the value if it is short strict JSON, otherwise a shortened text of it."""
    if isinstance(value, Exception):
        return str(value)
    try:
        short = len(json.dumps(value, allow_nan=False)) <= _ECHO_CHARS
    except (TypeError, ValueError, RecursionError):
        short = False
    return value if short else shorten(value)


def install_handlers(app: FastAPI) -> None:
    """Install the replies to invalid bodies, paths and queries."""
    app.add_exception_handler(Refused, _reply_refused)
    app.add_exception_handler(RequestValidationError, _reply_invalid)


async def _reply_refused(request: Request, error: Exception) -> Response:
    details = error.details if isinstance(error, Refused) else []
    # The reply is ASCII, because an echoed lone surrogate can be escaped but not encoded as UTF-8.
    return Response(json.dumps({"detail": details}), 422, media_type="application/json")


async def _reply_invalid(request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    return await _reply_refused(request, Refused([_detail(fault, ()) for fault in faults]))


def documented(
    schema: dict[str, Any], example: Any, line_schema: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Document a body that an endpoint parses itself; pass the result as `openapi_extra`.

    Args:
        schema: schema of the JSON body.
        example: example of the JSON body.
        line_schema: schema of one line, if the endpoint also accepts NDJSON; the example is then a
            list of lines.
    """
    content = {"application/json": {"schema": schema, "example": example}}
    if line_schema is not None:
        content[NDJSON] = {"schema": line_schema, "example": "".join(map(to_line, example))}
    return {"requestBody": {"required": True, "content": content}}
