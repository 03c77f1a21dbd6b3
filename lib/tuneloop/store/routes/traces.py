"""Endpoints of traces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from tuneloop import jsonl
from tuneloop.store.db.codec import NewTrace
from tuneloop.store.db.cursor import Cursor, read_cursor, write_cursor
from tuneloop.store.db.database import Stored
from tuneloop.store.db.scores import NewScore
from tuneloop.store.dependencies import LARGE_BATCH_BYTES, Service, Svc
from tuneloop.store.routes import examples, request_parsing
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import IdempotencyKey
from tuneloop.store.routes.scoring import score_baseline
from tuneloop.traces.fast import StoredPayload
from tuneloop.traces.schema import ReasoningTrace, UtcMoment, utc_text

_MAX_OFFSET = 2**63 - 1
_TRACE = {"$ref": "#/components/schemas/ReasoningTrace"}
_BATCH = {
    "type": "array",
    "items": _TRACE,
    "minItems": 1,
    "maxItems": request_parsing.MAX_BATCH_TRACES,
}
_STORED = refusals(400, 409, 413, 422, 503)
_FOUND = refusals(404, 422, 503)


def _no_number(text: str) -> str:
    """Refuse numbers, because pydantic would read 2026 as seconds since 1970."""
    try:
        float(text)
    except ValueError:
        return text
    raise ValueError("expected a date and a time with a time zone, such as 2026-11-22T11:22:10Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
TraceId = Annotated[UUID, Path(description="Id of a stored trace.", examples=[examples.TRACE_ID])]
Limit = Annotated[
    int,
    Query(
        description="Maximum number of traces.",
        examples=[20],
        json_schema_extra={"minimum": 1, "maximum": 100},
    ),
]
Offset = Annotated[
    int,
    Query(
        description="Traces to skip, from the newest; excludes `cursor`.",
        examples=[0],
        json_schema_extra={"minimum": 0, "maximum": _MAX_OFFSET},
    ),
]
OfSource = Annotated[
    str | SkipJsonSchema[None],
    Query(description="Return only traces with this `meta.source`.", examples=["example"]),
]
CreatedAfter = Annotated[
    Moment | SkipJsonSchema[None],
    Query(
        description="Return only traces stored after this time; must have a time zone.",
        examples=[examples.TIME],
    ),
]
_decode_stored = msgspec.json.Decoder(StoredPayload).decode
router = APIRouter(prefix="/api", responses=GUARDED)


class TraceCreated(BaseModel):
    """Reply to a stored trace, and one entry of a list."""

    id: str = Field(examples=[examples.TRACE_ID])
    created_at: UtcMoment = Field(examples=[examples.TIME])
    trace_version: str = Field(examples=["1.0"])


class BatchCreated(BaseModel):
    """Reply to a stored batch, in the order of the request."""

    created_count: int = Field(examples=[1])
    traces: list[TraceCreated]


class Pagination(BaseModel):
    """Position of a page in the list."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    limit: int = Field(examples=[20])
    offset: int = Field(examples=[0])
    next_offset: int | None = Field(examples=[20])
    """`offset` of the next page; null on the last page and in replies to a cursor."""
    next_cursor: str | None = Field(examples=[examples.CURSOR])
    """`cursor` of the next page; null on the last page."""


class TracePage(BaseModel):
    """Traces, newest first."""

    data: list[TraceCreated]
    pagination: Pagination


class TraceDetail(TraceCreated):
    """One trace with its payload."""

    payload: ReasoningTrace = Field(examples=[examples.TRACE])


class ScoredTrace(TraceDetail):
    """One trace of a comparison, with its baseline score."""

    score: float = Field(examples=[5.65])


class Comparison(BaseModel):
    """Two traces side by side."""

    base: ScoredTrace
    other: ScoredTrace


class ScoreRequest(BaseModel):
    """Request to score a trace by a criterion."""

    model_config = ConfigDict(extra="ignore")

    criteria: Literal["baseline"] = "baseline"


class ScoreDetails(BaseModel):
    """The parts of a score."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    step_count: int = Field(examples=[1])
    avg_step_length: float = Field(examples=[13.0])
    """Mean characters per step."""
    total_chars: int = Field(examples=[13])
    """Characters of all steps."""
    step_score: float = Field(examples=[5.0])
    length_score: float = Field(examples=[1.3])
    criteria: str = Field(examples=["baseline"])
    scored_at: UtcMoment = Field(examples=[examples.TIME])


class Scored(BaseModel):
    """Reply to a request to score a trace."""

    trace_id: str = Field(examples=[examples.TRACE_ID])
    score: float = Field(examples=[5.65])
    details: ScoreDetails


@router.post(
    "/traces",
    status_code=201,
    response_model=TraceCreated,
    responses=_STORED,
    openapi_extra=request_parsing.documented(_TRACE, examples.TRACE),
)
async def create_trace(request: Request, service: Svc, key: IdempotencyKey) -> Response:
    """Store one trace."""
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> Response:
        batch, now = [request_parsing.parse_trace(body)], service.clock()
        stored = service.database.insert_batch(batch, now=now, key=key)
        service.metrics.batch_stored(_new_ones(stored, now))
        return _created(_rows(stored, batch)[0])

    return await to_thread.run_sync(work, limiter=service.batch_threads)


@router.post(
    "/traces/batch",
    status_code=201,
    response_model=BatchCreated,
    responses=_STORED,
    openapi_extra=request_parsing.documented(_BATCH, [examples.TRACE], _TRACE),
)
async def create_batch(request: Request, service: Svc, key: IdempotencyKey) -> Response:
    """Store up to 1000 traces, all or none, from a JSON array or application/x-ndjson."""
    body = await request_parsing.read(request, request_parsing.MAX_BATCH_BYTES)
    parse = (
        request_parsing.parse_lines
        if request_parsing.is_ndjson(request)
        else request_parsing.parse_array
    )

    is_large = len(body) > LARGE_BATCH_BYTES

    def work() -> Response:
        nonlocal body
        batch, now = parse(body), service.clock()
        body = b""  # The batch is a copy.
        stored = service.database.insert_batch(batch, now=now, key=key)
        service.metrics.batch_stored(_new_ones(stored, now))
        return _created({"created_count": len(stored), "traces": _rows(stored, batch)})

    threads = service.large_batch_threads if is_large else service.batch_threads
    return await to_thread.run_sync(work, limiter=threads)


def _new_ones(stored: Sequence[Stored], now: datetime) -> int:
    """Count the traces that were not stored earlier; new traces are never older than `now`."""
    return sum(one.created_at >= now for one in stored)


def _rows(stored: Sequence[Stored], batch: Sequence[NewTrace]) -> list[dict[str, str]]:
    return [
        {"id": one.id, "created_at": utc_text(one.created_at), "trace_version": trace.trace_version}
        for one, trace in zip(stored, batch, strict=True)
    ]


def _created(reply: dict[str, Any]) -> Response:
    """Build a 201 reply without pydantic, which takes longer for 1000 rows than the database."""
    return Response(msgspec.json.encode(reply), 201, media_type="application/json")


@router.get("/traces", responses=refusals(422, 503))
def list_traces(
    service: Svc,
    limit: Limit = 20,
    offset: Offset = 0,
    cursor: Annotated[
        str | SkipJsonSchema[None],
        Query(description="`next_cursor` of an earlier reply.", examples=[examples.CURSOR]),
    ] = None,
    source: OfSource = None,
    created_after: CreatedAfter = None,
) -> TracePage:
    """List traces, newest first.

    Pages by `offset` shift when new traces arrive. A page by `cursor` starts where the earlier page
    ended, even if new traces have arrived.
    """
    if not 1 <= limit <= 100:
        raise HTTPException(422, "limit must be between 1 and 100")
    if offset < 0:
        raise HTTPException(422, "offset must be non-negative")
    if offset > _MAX_OFFSET:
        raise HTTPException(422, f"offset must be at most {_MAX_OFFSET}")
    if cursor is not None and offset:
        raise HTTPException(422, "cursor and offset exclude each other; use only one of them")
    before = None if cursor is None else parse_cursor(cursor)
    rows = service.database.list(
        limit + 1, offset, before=before, source=source, created_after=created_after
    )
    page, is_last = rows[:limit], len(rows) <= limit
    pagination = Pagination(
        limit=limit,
        offset=offset,
        next_offset=None if is_last or cursor is not None else offset + limit,
        next_cursor=None if is_last else write_cursor((page[-1].created_at, page[-1].seq)),
    )
    data = [
        TraceCreated(id=r.id, created_at=r.created_at, trace_version=r.trace_version) for r in page
    ]
    return TracePage(data=data, pagination=pagination)


def parse_cursor(text: str) -> Cursor:
    """Parse the cursor of a request.

    Raises:
        HTTPException: it is not the cursor of an earlier reply.
    """
    try:
        return read_cursor(text)
    except ValueError as e:
        raise HTTPException(422, "Invalid cursor: expected next_cursor of an earlier reply") from e


@router.get("/traces/compare", response_model=Comparison, responses=_FOUND)
def compare_traces(
    base: Annotated[UUID, Query(description="Id of one trace.", examples=[examples.TRACE_ID])],
    other: Annotated[
        UUID, Query(description="Id of the other trace.", examples=[examples.OTHER_TRACE_ID])
    ],
    service: Svc,
) -> Response:
    """Return two traces with their baseline scores, which are not stored."""
    with (
        _reading(service, base, "Base trace") as (one, one_detail),
        _reading(service, other, "Other trace") as (another, other_detail),
    ):
        base_reply = {**one_detail, "score": score_baseline(one.steps).score}
        other_reply = {**other_detail, "score": score_baseline(another.steps).score}
        return _json({"base": base_reply, "other": other_reply})


@router.get("/traces/{trace_id}", response_model=TraceDetail, responses=_FOUND)
def get_trace(trace_id: TraceId, service: Svc) -> Response:
    """Return one trace with its payload."""
    with _reading(service, trace_id, "Trace") as (_, detail):
        return _json(detail)


@contextlib.contextmanager
def _reading(
    service: Service, trace_id: UUID, what: str
) -> Iterator[tuple[StoredPayload, dict[str, Any]]]:
    """Yield a trace, and its TraceDetail as msgspec encodes it.

    The values of meta are never decoded, because their objects can take far more than their JSON.
    """
    with service.database.reading(str(trace_id)) as found:
        if found is None:
            raise HTTPException(404, f"{what} {trace_id} not found")
        payload = found.payload.encode()
        trace = _decode_stored(payload)
        detail = {
            "id": str(trace_id),
            "created_at": utc_text(found.created_at),
            "trace_version": trace.trace_version,
            "payload": msgspec.Raw(payload),
        }
        yield trace, detail


def _json(reply: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(reply), media_type="application/json")


@router.post("/traces/{trace_id}/score", status_code=201, responses=refusals(400, 404, 422, 503))
def score_trace(trace_id: TraceId, service: Svc, request: ScoreRequest | None = None) -> Scored:
    """Score a trace by a criterion and store the score; each call adds a score."""
    criteria = (request or ScoreRequest()).criteria
    with _reading(service, trace_id, "Trace") as (trace, _):
        baseline, now = score_baseline(trace.steps), service.clock()
    details = ScoreDetails(**asdict(baseline), criteria=criteria, scored_at=now)
    kept = jsonl.dump_line(details.model_dump(mode="json")).decode()[:-1]
    # If the trace was deleted meanwhile, the reply is 404.
    service.database.scores.add([NewScore(str(trace_id), criteria, baseline.score, kept)], now=now)
    return Scored(trace_id=str(trace_id), score=baseline.score, details=details)


@router.delete("/traces/{trace_id}", status_code=204, responses=_FOUND)
def delete_trace(trace_id: TraceId, service: Svc) -> None:
    """Delete a trace, its scores and its labels; datasets that contain it keep their copy."""
    if not service.database.delete(str(trace_id)):
        raise HTTPException(404, f"Trace {trace_id} not found")
