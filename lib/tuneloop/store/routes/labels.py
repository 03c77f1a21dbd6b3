"""Endpoints of labels, which reviewers give to traces and which are only added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from tuneloop.store.db.cursor import read_cursor, write_cursor
from tuneloop.store.db.labels import NewLabel, StoredLabel
from tuneloop.store.dependencies import Service, Svc
from tuneloop.store.middleware.auth import token_name
from tuneloop.store.routes import examples, request_parsing
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import IdempotencyKey
from tuneloop.store.routes.traces import TraceId
from tuneloop.traces.judgements import (
    MAX_BATCH,
    MAX_WHO_CHARACTERS,
    LabelRequest,
    LabelValue,
    TraceLabelRequest,
)
from tuneloop.traces.schema import UtcMoment, utc_text

PAGE_LABELS = 1000
"""Maximum number of labels in one reply."""
_LABEL = {"$ref": "#/components/schemas/LabelRequest"}
_TRACE_LABEL = {"$ref": "#/components/schemas/TraceLabelRequest"}
_BATCH = {"type": "array", "items": _TRACE_LABEL, "minItems": 1, "maxItems": MAX_BATCH}
_one = TypeAdapter(LabelRequest)
_of_batch = TypeAdapter(TraceLabelRequest)

Limit = Annotated[
    int,
    Query(
        description="Maximum number of labels.",
        examples=[100],
        json_schema_extra={"minimum": 1, "maximum": PAGE_LABELS},
    ),
]
After = Annotated[
    str | SkipJsonSchema[None],
    Query(description="`next_cursor` of an earlier reply.", examples=[examples.CURSOR]),
]
router = APIRouter(prefix="/api", responses=GUARDED)


class LabelCreated(BaseModel):
    """A stored label."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    trace_id: str = Field(examples=[examples.TRACE_ID])
    name: str = Field(examples=["review"])
    value: LabelValue = Field(examples=["accept"])
    who: str = Field(examples=["ada"])
    """Name of the reviewer."""
    reason: str = Field(examples=["the sum is right"])
    """Why the reviewer gave it; empty without a reason."""
    created_at: UtcMoment = Field(examples=[examples.TIME])


class LabelsCreated(BaseModel):
    """Reply to a batch of labels, in the order of the request."""

    created_count: int = Field(examples=[1])
    labels: list[LabelCreated]


class LabelPage(BaseModel):
    """Labels in the order of arrival."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    data: list[LabelCreated]
    next_cursor: str | None = Field(examples=[examples.CURSOR])
    """`cursor` of the next page; null on the last page."""


@router.post(
    "/traces/{trace_id}/labels",
    status_code=201,
    response_model=LabelCreated,
    responses=refusals(400, 404, 409, 413, 422, 503),
    openapi_extra=request_parsing.documented(_LABEL, examples.LABEL),
)
async def create_label(
    trace_id: TraceId, request: Request, service: Svc, key: IdempotencyKey
) -> Response:
    """Add a label to a trace; labels are never changed, and the newest one of a reviewer counts."""
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> Response:
        asked = request_parsing.parse(_one, body)
        return _created(_add(service, request, [(str(trace_id), asked)], key)[0])

    return await to_thread.run_sync(work, limiter=service.batch_threads)


@router.post(
    "/labels/batch",
    status_code=201,
    response_model=LabelsCreated,
    responses=refusals(400, 404, 409, 413, 422, 503),
    openapi_extra=request_parsing.documented(_BATCH, [examples.TRACE_LABEL], _TRACE_LABEL),
)
async def create_labels(request: Request, service: Svc, key: IdempotencyKey) -> Response:
    """Add up to 1000 labels, all or none, from a JSON array or application/x-ndjson."""
    body = await request_parsing.read(request, request_parsing.MAX_LABELS_BYTES)
    is_lines = request_parsing.is_ndjson(request)

    def work() -> Response:
        asked = request_parsing.parse_small(_of_batch, body, "label", is_lines=is_lines)
        stored = _add(service, request, [(each.trace_id.lower(), each) for each in asked], key)
        return _created({"created_count": len(stored), "labels": stored})

    return await to_thread.run_sync(work, limiter=service.batch_threads)


@router.get("/traces/{trace_id}/labels", responses=refusals(404, 422, 503))
def list_trace_labels(
    trace_id: TraceId, service: Svc, limit: Limit = PAGE_LABELS, cursor: After = None
) -> LabelPage:
    """List all labels of a trace, in the order of arrival."""
    if service.database.labels.place_of(str(trace_id)) is None:
        raise HTTPException(404, f"Trace {trace_id} not found")
    return _page(service, limit, cursor, trace_id=str(trace_id))


@router.get("/labels", responses=refusals(422, 503))
def list_labels(
    service: Svc,
    limit: Limit = PAGE_LABELS,
    cursor: After = None,
    name: Annotated[
        str | SkipJsonSchema[None],
        Query(description="Return only labels with this name.", examples=["review"]),
    ] = None,
    who: Annotated[
        str | SkipJsonSchema[None],
        Query(description="Return only labels of this reviewer.", examples=["ada"]),
    ] = None,
) -> LabelPage:
    """List the labels of all traces, in the order of arrival."""
    return _page(service, limit, cursor, name=name, who=who)


def reviewer(request: Request, stated: str | None) -> str:
    """Return the name of the reviewer who sends a request.

    Args:
        request: the request.
        stated: name that it states; None if it states none.

    Raises:
        HTTPException: the request states another name than that of its token, or has neither.
    """
    name = token_name(request.scope)
    if name is None:
        if stated is None:
            raise HTTPException(
                422, "who is missing: a store without tokens needs the name of the reviewer"
            )
        return stated
    if stated is not None and stated != name:
        shown = stated[:MAX_WHO_CHARACTERS]
        raise HTTPException(422, f"who is {shown!r}, expected {name!r}, the name of the token")
    return name


def _add(
    service: Service,
    request: Request,
    asked: Sequence[tuple[str, LabelRequest]],
    key: str | None,
) -> list[dict[str, Any]]:
    batch = [
        NewLabel(
            trace_id, each.name, value_text(each.value), reviewer(request, each.who), each.reason
        )
        for trace_id, each in asked
    ]
    times = service.database.labels.add(batch, now=service.clock(), key=key)
    return [
        _reply(StoredLabel(0, *label, created_at=time))
        for label, time in zip(batch, times, strict=True)
    ]


def value_text(value: bool | int | float | str) -> str:
    """Encode the value of a label as JSON, with one spelling for equal values."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    return msgspec.json.encode(value).decode()


def _page(service: Service, limit: int, cursor: str | None, **filters: str | None) -> LabelPage:
    if not 1 <= limit <= PAGE_LABELS:
        raise HTTPException(422, f"limit must be between 1 and {PAGE_LABELS}")
    after = 0
    if cursor is not None:
        try:
            after = read_cursor(cursor)[1]
        except ValueError as e:
            words = "Invalid cursor: expected next_cursor of an earlier reply"
            raise HTTPException(422, words) from e
    rows = service.database.labels.find(limit + 1, after, **filters)
    page = rows[:limit]
    more = write_cursor((page[-1].created_at, page[-1].seq)) if len(rows) > limit else None
    data = [LabelCreated.model_validate(_reply(row)) for row in page]
    return LabelPage(data=data, next_cursor=more)


def _reply(label: StoredLabel) -> dict[str, Any]:
    return {
        "trace_id": label.trace_id,
        "name": label.name,
        "value": msgspec.json.decode(label.value),
        "who": label.who,
        "reason": label.reason,
        "created_at": utc_text(label.created_at),
    }


def _created(reply: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(reply), 201, media_type="application/json")
