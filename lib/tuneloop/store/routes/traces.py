"""Endpoints of traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict

from tuneloop.store.db.codec import NewTrace
from tuneloop.store.db.cursor import Cursor, read_cursor, write_cursor
from tuneloop.store.db.database import Stored
from tuneloop.store.dependencies import Service, Svc
from tuneloop.store.routes import request_parsing
from tuneloop.store.routes.scoring import score_baseline
from tuneloop.traces.schema import ReasoningTrace, UtcMoment, utc_text

_MAX_OFFSET = 2**63 - 1
_TRACE = {"$ref": "#/components/schemas/ReasoningTrace"}
_BATCH = {
    "type": "array",
    "items": _TRACE,
    "minItems": 1,
    "maxItems": request_parsing.MAX_BATCH_TRACES,
}


def _no_number(text: str) -> str:
    """Pydantic takes a number for seconds since 1970; `created_after=2026` shall not mean that."""
    try:
        float(text)
    except ValueError:
        return text
    raise ValueError("expected a date and a time with a time zone, such as 2026-11-22T11:22:10Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
router = APIRouter(prefix="/api")


class TraceCreated(BaseModel):
    """Reply to a stored trace, and one item of a list."""

    id: str
    created_at: UtcMoment
    trace_version: str


class BatchCreated(BaseModel):
    """Reply to a stored batch, in the order of the request."""

    created_count: int
    traces: list[TraceCreated]


class Pagination(BaseModel):
    """Where a page lies; both next ones are null on the last page."""

    limit: int
    offset: int
    next_offset: int | None
    """Null too where the page was asked for by cursor."""
    next_cursor: str | None


class TracePage(BaseModel):
    """Traces, newest first."""

    data: list[TraceCreated]
    pagination: Pagination


class TraceDetail(TraceCreated):
    """One trace with all it holds."""

    payload: ReasoningTrace


class ScoredTrace(TraceDetail):
    """One side of a comparison."""

    score: float


class Comparison(BaseModel):
    """Two traces side by side."""

    base: ScoredTrace
    other: ScoredTrace


class ScoreRequest(BaseModel):
    """By what a trace is scored."""

    model_config = ConfigDict(extra="ignore")

    criteria: Literal["baseline"] = "baseline"


class ScoreDetails(BaseModel):
    """How a score came about."""

    step_count: int
    avg_step_length: float
    total_chars: int
    step_score: float
    length_score: float
    criteria: str
    scored_at: UtcMoment


class Scored(BaseModel):
    """Reply to a scoring."""

    trace_id: str
    score: float
    details: ScoreDetails


@router.post(
    "/traces",
    status_code=201,
    response_model=TraceCreated,
    openapi_extra=request_parsing.describe(_TRACE),
)
async def create_trace(request: Request, service: Svc) -> Response:
    """Store one trace."""
    key = request_parsing.idempotency_key(request)
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> Response:
        batch, now = [request_parsing.parse_trace(body)], service.clock()
        stored = service.database.insert_batch(batch, now=now, key=key)
        service.metrics.batch_stored(1, repeated=_is_repeated(stored[0], now))
        return _created(_rows(stored, batch)[0])

    return await run_in_threadpool(work)


@router.post(
    "/traces/batch",
    status_code=201,
    response_model=BatchCreated,
    openapi_extra=request_parsing.describe(_BATCH, many=_TRACE),
)
async def create_batch(request: Request, service: Svc) -> Response:
    """Store up to 1000 traces, all or none: a JSON array, or application/x-ndjson."""
    key = request_parsing.idempotency_key(request)
    body = await request_parsing.read(request, request_parsing.MAX_BATCH_BYTES)
    parse = (
        request_parsing.parse_lines
        if request_parsing.is_ndjson(request)
        else request_parsing.parse_array
    )

    def work() -> Response:
        batch = parse(body)
        batch, now = parse(body), service.clock()
        stored = service.database.insert_batch(batch, now=now, key=key)
        service.metrics.batch_stored(len(batch), repeated=_is_repeated(stored[0], now))
        return _created({"created_count": len(stored), "traces": _rows(stored, batch)})

    return await run_in_threadpool(work)


def _is_repeated(stored: Stored, now: datetime) -> bool:
    """Whether an idempotency key found it: what is stored now is never older than now."""
    return stored.created_at < now


def _rows(stored: Sequence[Stored], batch: Sequence[NewTrace]) -> list[dict[str, str]]:
    return [
        {"id": one.id, "created_at": utc_text(one.created_at), "trace_version": trace.trace_version}
        for one, trace in zip(stored, batch, strict=True)
    ]


def _created(reply: dict[str, Any]) -> Response:
    """A 201; a batch's thousand rows take pydantic longer than the database."""
    return Response(msgspec.json.encode(reply), 201, media_type="application/json")


@router.get("/traces")
def list_traces(
    service: Svc,
    limit: int = 20,
    offset: int = 0,
    cursor: str | None = None,
    source: str | None = None,
    created_after: Moment | None = None,
) -> TracePage:
    """Traces, newest first.

    `offset` counts from the newest, so pages shift while traces arrive; `cursor`, the last reply's
    `next_cursor`, goes on where that page ended, whatever has arrived since. `source` is compared
    with `meta.source`, `created_after` excludes that moment itself.
    """
    if not 1 <= limit <= 100:
        raise HTTPException(422, "limit must be between 1 and 100")
    if offset < 0:
        raise HTTPException(422, "offset must be non-negative")
    if offset > _MAX_OFFSET:
        raise HTTPException(422, f"offset must be at most {_MAX_OFFSET}")
    if cursor is not None and offset:
        raise HTTPException(422, "cursor and offset exclude each other; give one of them")
    before = None if cursor is None else _read_cursor(cursor)
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


def _read_cursor(text: str) -> Cursor:
    try:
        return read_cursor(text)
    except ValueError as e:
        raise HTTPException(422, "Invalid cursor: expected next_cursor of an earlier reply") from e


@router.get("/traces/compare")
def compare_traces(base: UUID, other: UUID, service: Svc) -> Comparison:
    """Two traces side by side, each with its baseline score, which is not stored."""
    return Comparison(
        base=_scored(service, base, "Base trace"), other=_scored(service, other, "Other trace")
    )


def _scored(service: Service, trace_id: UUID, what: str) -> ScoredTrace:
    detail = _detail(service, trace_id, what)
    score = score_baseline(detail.payload).score
    return ScoredTrace(
        **detail.model_dump(exclude={"payload"}), payload=detail.payload, score=score
    )


@router.get("/traces/{trace_id}")
def get_trace(trace_id: UUID, service: Svc) -> TraceDetail:
    """One trace with all it holds."""
    return _detail(service, trace_id, "Trace")


def _detail(service: Service, trace_id: UUID, what: str) -> TraceDetail:
    found = service.database.get(str(trace_id))
    if found is None:
        raise HTTPException(404, f"{what} {trace_id} not found")
    return TraceDetail(
        id=str(found.id),
        created_at=found.created_at,
        trace_version=found.trace.trace_version,
        payload=found.trace,
    )


@router.post("/traces/{trace_id}/score", status_code=201)
def score_trace(trace_id: UUID, service: Svc, request: ScoreRequest | None = None) -> Scored:
    """Score a trace by a criterion and keep the score; each call adds one."""
    criteria = (request or ScoreRequest()).criteria
    detail = _detail(service, trace_id, "Trace")
    baseline, now = score_baseline(detail.payload), service.clock()
    details = ScoreDetails(**asdict(baseline), criteria=criteria, scored_at=now)
    kept = details.model_dump(mode="json")
    if not service.database.add_score(str(trace_id), criteria, baseline.score, kept, now=now):
        raise HTTPException(404, f"Trace {trace_id} not found")  # deleted in between
    return Scored(trace_id=str(trace_id), score=baseline.score, details=details)


@router.delete("/traces/{trace_id}", status_code=204)
def delete_trace(trace_id: UUID, service: Svc) -> None:
    """Delete a trace and its scores; datasets that hold it keep their copy."""
    if not service.database.delete(str(trace_id)):
        raise HTTPException(404, f"Trace {trace_id} not found")
