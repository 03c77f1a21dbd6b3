"""Endpoints of scores that programs have computed, such as the stage `score`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from tuneloop import jsonl
from tuneloop.store.db.scores import NewScore
from tuneloop.store.dependencies import Svc
from tuneloop.store.routes import examples, request_parsing
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import IdempotencyKey
from tuneloop.store.routes.traces import TraceId
from tuneloop.traces.judgements import MAX_BATCH, MAX_DETAILS_BYTES, ScoreRow
from tuneloop.traces.schema import UtcMoment

SHOWN_SCORES = 1000
"""Maximum number of scores of a trace in one reply."""
_ROW = {"$ref": "#/components/schemas/ScoreRow"}
_BATCH = {"type": "array", "items": _ROW, "minItems": 1, "maxItems": MAX_BATCH}
_of_batch = TypeAdapter(ScoreRow)

router = APIRouter(prefix="/api", responses=GUARDED)


class ScoresCreated(BaseModel):
    """Reply to a batch of scores."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    created_count: int = Field(examples=[1])
    unknown_count: int = Field(examples=[0])
    """Skipped scores of traces that do not exist."""


class StoredScoreReply(BaseModel):
    """A stored score."""

    criteria: str = Field(examples=["numeric"])
    score: float = Field(examples=[1.0])
    details: dict[str, JsonValue] = Field(examples=[{"state": "correct"}])
    created_at: UtcMoment = Field(examples=[examples.TIME])


class ScoreList(BaseModel):
    """The newest scores of a trace, at most 1000, oldest first."""

    data: list[StoredScoreReply]


@router.post(
    "/scores/batch",
    status_code=201,
    response_model=ScoresCreated,
    responses=refusals(400, 404, 409, 413, 422, 503),
    openapi_extra=request_parsing.documented(_BATCH, [examples.SCORE], _ROW),
)
async def create_scores(
    request: Request,
    service: Svc,
    key: IdempotencyKey,
    unknown: Annotated[
        Literal["refuse", "skip"],
        Query(
            description="What to do if a trace does not exist: refuse the batch with 404, or skip"
            " its score.",
            examples=["refuse"],
        ),
    ] = "refuse",
) -> Response:
    """Store up to 1000 scores, all or none, from a JSON array or application/x-ndjson."""
    body = await request_parsing.read(request, request_parsing.MAX_LABELS_BYTES)
    is_lines = request_parsing.is_ndjson(request)

    def work() -> Response:
        asked = request_parsing.parse_small(_of_batch, body, "score", is_lines=is_lines)
        batch = [
            NewScore(each.trace_id.lower(), each.criteria, each.score, _details(each, n))
            for n, each in enumerate(asked)
        ]
        skipped = service.database.scores.add(
            batch, now=service.clock(), key=key, skip_unknown=unknown == "skip"
        )
        reply = {"created_count": len(batch) - skipped, "unknown_count": skipped}
        return Response(msgspec.json.encode(reply), 201, media_type="application/json")

    return await to_thread.run_sync(work, limiter=service.batch_threads)


def _details(row: ScoreRow, number: int) -> str:
    line = jsonl.dump_line(row.details)[:-1]
    if len(line) > MAX_DETAILS_BYTES:
        raise HTTPException(
            422,
            f"details of score {number} have {len(line)} bytes as JSON, at most"
            f" {MAX_DETAILS_BYTES} are allowed",
        )
    return line.decode()


@router.get("/traces/{trace_id}/scores", responses=refusals(404, 422, 503))
def list_scores(trace_id: TraceId, service: Svc) -> ScoreList:
    """List the newest scores of a trace, oldest first."""
    if service.database.labels.place_of(str(trace_id)) is None:
        raise HTTPException(404, f"Trace {trace_id} not found")
    rows = service.database.scores.of_trace(str(trace_id), SHOWN_SCORES)
    data = [
        StoredScoreReply(
            criteria=row.criteria,
            score=row.score,
            details=msgspec.json.decode(row.details),
            created_at=row.created_at,
        )
        for row in rows
    ]
    return ScoreList(data=data)
