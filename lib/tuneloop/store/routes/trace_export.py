"""The endpoint that streams traces with their payloads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic.json_schema import SkipJsonSchema

from tuneloop.store.db.cursor import write_cursor
from tuneloop.store.db.exports import Exported
from tuneloop.store.dependencies import Svc
from tuneloop.store.routes import examples
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import NDJSON
from tuneloop.store.routes.streams import LOCAL_STREAM_BYTES, Blocks, BlocksResponse, measured
from tuneloop.store.routes.traces import CreatedAfter, OfSource, parse_cursor
from tuneloop.traces.schema import utc_text

MAX_TRACES = 10_000
"""Maximum number of traces of one reply; further ones are asked for by a cursor."""

router = APIRouter(prefix="/api", responses=GUARDED)


@router.get(
    "/traces/export.jsonl",
    status_code=200,
    response_class=BlocksResponse,
    responses={
        **refusals(422, 503),
        200: {"content": {NDJSON: {"example": examples.EXPORTED_TRACE}}},
    },
)
async def export_traces(
    service: Svc,
    limit: Annotated[
        int,
        Query(
            description="Maximum number of traces.",
            examples=[1000],
            json_schema_extra={"minimum": 1, "maximum": MAX_TRACES},
        ),
    ] = MAX_TRACES,
    cursor: Annotated[
        str | SkipJsonSchema[None],
        Query(description="`cursor` of a line of an earlier reply.", examples=[examples.CURSOR]),
    ] = None,
    source: OfSource = None,
    created_after: CreatedAfter = None,
) -> StreamingResponse:
    """Stream traces with their payloads, newest first, one per line.

    The `cursor` of a line continues after that line: for the next page, and if the connection
    breaks. Fewer lines than `limit` are the last page.
    """
    if not 1 <= limit <= MAX_TRACES:
        raise HTTPException(422, f"limit must be between 1 and {MAX_TRACES}")
    before = None if cursor is None else parse_cursor(cursor)
    found = service.database.exports.iter_blocks(
        before=before, source=source, created_after=created_after
    )

    def begin() -> tuple[bytes, Blocks]:
        blocks = measured(_lines(found, limit), service.metrics, "traces")
        return next(blocks), blocks  # A failure in the first block can be answered with a status.

    first, rest = await to_thread.run_sync(begin, limiter=service.export_threads)
    return BlocksResponse(first, rest, service.export_threads, LOCAL_STREAM_BYTES)


def _lines(found: Iterable[list[Exported]], limit: int) -> Blocks:
    """Yield the lines of at most `limit` traces, in at least one block, which may be empty."""
    for rows in found:
        yield b"".join(map(_line, rows[:limit]))
        limit -= min(limit, len(rows))
        if not limit:
            return
    yield b""


def _line(row: Exported) -> bytes:
    """Build a line; the payload stays as it is stored."""
    fields = {
        "id": row.id,
        "created_at": utc_text(row.created_at),
        "trace_version": row.trace_version,
        "cursor": write_cursor((row.created_at, row.seq)),
        "payload": msgspec.Raw(row.payload.encode()),
    }
    return msgspec.json.encode(fields) + b"\n"
