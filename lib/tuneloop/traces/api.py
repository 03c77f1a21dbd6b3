"""The trace store over HTTP, with the paths, codes and texts that its clients know.

One rule: nothing that a client sends makes a 5xx, and nothing that one client asks for makes
another one wait: bodies are limited while they arrive, work runs in threads, exports stream.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, TypeAdapter

from tuneloop import jsonl
from tuneloop.datasets import read
from tuneloop.datasets.build import DatasetConflict, DatasetEmpty, build
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, TraceRow, is_key
from tuneloop.errors import DataError, TuneloopError
from tuneloop.traces import bodies
from tuneloop.traces.database import Database, IdempotencyConflict, Stored
from tuneloop.traces.schema import ReasoningTrace, UtcMoment

log = logging.getLogger(__name__)

_MAX_OFFSET = 2**63 - 1
_BLOCK_BYTES = 1 << 16

Render = Callable[[TraceRow, DatasetManifest], dict[str, Any]]


@dataclass(frozen=True)
class Service:
    """What the endpoints work with."""

    database: Database
    artifacts: str
    recipes: tuple[str, ...]
    export_formats: Mapping[str, Render]
    clock: Callable[[], datetime]
    new_seed: Callable[[], int]


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
    """Where a page lies; next_offset is null on the last one."""

    limit: int
    offset: int
    next_offset: int | None


class TracePage(BaseModel):
    """Traces, newest first."""

    data: list[TraceCreated]
    pagination: Pagination


class TraceDetail(TraceCreated):
    """One trace with all it holds."""

    payload: ReasoningTrace


class DatasetBuilt(BaseModel):
    """Reply to a build."""

    dataset_key: str
    build_id: str
    trace_count: int
    seed: int
    manifest_path: str
    """Relative to the artifacts prefix."""


class DatasetListed(BaseModel):
    """One dataset of the list."""

    dataset_key: str
    build_id: str
    trace_count: int
    created_at: str


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_seed() -> int:
    return secrets.randbelow(2**32)


def create_app(
    database: Database,
    artifacts_url: str,
    recipes: Collection[str],
    export_formats: Mapping[str, Render],
    *,
    clock: Callable[[], datetime] = _utc_now,
    new_seed: Callable[[], int] = _new_seed,
) -> FastAPI:
    """Make the application.

    Args:
        database: where traces are.
        artifacts_url: prefix that holds datasets/.
        recipes: names that a build may ask for.
        export_formats: what `?format=` may name, and how each makes a record of a row.
        clock: tells the time of new traces and datasets.
        new_seed: draws the seed of a build that names none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(title="tuneloop trace store", lifespan=lifespan)
    app.state.service = Service(
        database, artifacts_url.rstrip("/"), tuple(recipes), dict(export_formats), clock, new_seed
    )
    app.include_router(router)
    bodies.install_handlers(app)
    app.add_exception_handler(TuneloopError, _reply_expected_failure)
    return app


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Svc = Annotated[Service, Depends(_service)]
router = APIRouter(prefix="/api")
_TRACE = {"$ref": "#/components/schemas/ReasoningTrace"}
_build_request = TypeAdapter(BuildRequest)


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process answers; touches nothing else, and takes no thread."""
    return {"status": "healthy"}


@router.post(
    "/traces",
    status_code=201,
    response_model=TraceCreated,
    openapi_extra=bodies.describe(_TRACE),
)
async def create_trace(request: Request, service: Svc) -> JSONResponse:
    """Store one trace."""
    key = bodies.idempotency_key(request)
    body = await bodies.read(request, bodies.MAX_TRACE_BYTES)

    def work() -> JSONResponse:
        trace = bodies.parse_trace(body)
        (stored,) = service.database.insert_batch([trace], now=service.clock(), key=key)
        return JSONResponse(_created(stored, trace).model_dump(mode="json"), status_code=201)

    return await run_in_threadpool(work)


@router.post(
    "/traces/batch",
    status_code=201,
    response_model=BatchCreated,
    openapi_extra=bodies.describe({"type": "array", "items": _TRACE}, many=_TRACE),
)
async def create_batch(request: Request, service: Svc) -> JSONResponse:
    """Store up to 1000 traces, all or none: a JSON array, or application/x-ndjson."""
    key = bodies.idempotency_key(request)
    body = await bodies.read(request, bodies.MAX_BATCH_BYTES)
    parse = bodies.parse_lines if bodies.is_ndjson(request) else bodies.parse_array

    def work() -> JSONResponse:
        batch = parse(body)
        stored = service.database.insert_batch(batch, now=service.clock(), key=key)
        created = [_created(one, trace) for one, trace in zip(stored, batch, strict=True)]
        reply = BatchCreated(created_count=len(created), traces=created)
        return JSONResponse(reply.model_dump(mode="json"), status_code=201)

    return await run_in_threadpool(work)


def _created(stored: Stored, trace: ReasoningTrace) -> TraceCreated:
    return TraceCreated(
        id=stored.id, created_at=stored.created_at, trace_version=trace.trace_version
    )


@router.get("/traces")
def list_traces(service: Svc, limit: int = 20, offset: int = 0) -> TracePage:
    """Traces, newest first."""
    if not 1 <= limit <= 100:
        raise HTTPException(422, "limit must be between 1 and 100")
    if offset < 0:
        raise HTTPException(422, "offset must be non-negative")
    if offset > _MAX_OFFSET:
        raise HTTPException(422, f"offset must be at most {_MAX_OFFSET}")
    rows = service.database.list(limit + 1, offset)
    return TracePage(
        data=[TraceCreated(**row._asdict()) for row in rows[:limit]],
        pagination=Pagination(
            limit=limit, offset=offset, next_offset=offset + limit if len(rows) > limit else None
        ),
    )


@router.get("/traces/{trace_id}")
def get_trace(trace_id: UUID, service: Svc) -> TraceDetail:
    """One trace with all it holds."""
    found = service.database.get(str(trace_id))
    if found is None:
        raise HTTPException(404, f"Trace {trace_id} not found")
    return TraceDetail(
        id=str(found.id),
        created_at=found.created_at,
        trace_version=found.trace.trace_version,
        payload=found.trace,
    )


@router.post(
    "/datasets/build",
    status_code=201,
    response_model=DatasetBuilt,
    responses={200: {"model": DatasetBuilt, "description": "It was built before"}},
    openapi_extra=bodies.describe(BuildRequest.model_json_schema()),
)
async def build_dataset(request: Request, service: Svc) -> JSONResponse:
    """Publish traces as a dataset, for ever; 200 if the same dataset is there already."""
    body = await bodies.read(request, bodies.MAX_TRACE_BYTES)

    def work() -> JSONResponse:
        wanted = bodies.parse(_build_request, body)
        if wanted.recipe not in service.recipes:
            known = _one_of(service.recipes)
            raise HTTPException(422, f"Unknown recipe: {wanted.recipe}. Must be {known}")
        manifest, created = build(
            lambda seed: service.database.selection(wanted, seed),
            wanted,
            service.artifacts,
            now=service.clock(),
            new_seed=service.new_seed,
        )
        reply = DatasetBuilt(
            dataset_key=manifest.dataset_key,
            build_id=manifest.build_id,
            trace_count=manifest.trace_count,
            seed=manifest.seed,
            manifest_path=f"datasets/{manifest.dataset_key}/manifest.json",
        )
        return JSONResponse(reply.model_dump(mode="json"), status_code=201 if created else 200)

    return await run_in_threadpool(work)


@router.get("/datasets")
def list_datasets(service: Svc) -> list[DatasetListed]:
    """All published datasets, by key; a damaged one is logged and left out."""
    listed = []
    for key in read.list_manifest_keys(service.artifacts):
        try:
            manifest = read.load_manifest(service.artifacts, key)
        except DataError as e:
            log.warning("left out of the list of datasets: %s", e)
            continue
        listed.append(
            DatasetListed(
                dataset_key=manifest.dataset_key,
                build_id=manifest.build_id,
                trace_count=manifest.trace_count,
                created_at=manifest.created_at,
            )
        )
    return listed


@router.get("/datasets/{key}")
def get_dataset(key: str, service: Svc) -> DatasetManifest:
    """The manifest of a dataset."""
    return _manifest(service, key)


@router.get("/datasets/{key}/export.jsonl")
def export_dataset(
    key: str, service: Svc, name: Annotated[str, Query(alias="format")] = "trace"
) -> StreamingResponse:
    """The dataset as records of a format, a line each, in the manifest's order."""
    render = service.export_formats.get(name)
    if render is None:
        known = _one_of(tuple(service.export_formats))
        raise HTTPException(422, f"Invalid format: {name}. Must be {known}")
    manifest = _manifest(service, key)
    if damage := read.find_damage(manifest, service.artifacts):
        raise DataError(f"datasets/{key}: {damage}; restore it or rebuild the dataset")
    blocks = _export_blocks(manifest, service.artifacts, render)
    first = next(blocks)  # what is wrong at once can still get a status of its own
    return StreamingResponse(chain([first], blocks), media_type="application/x-ndjson")


def _export_blocks(manifest: DatasetManifest, artifacts: str, render: Render) -> Iterator[bytes]:
    """Lines in blocks, so that the server changes threads per block and not per line."""
    block = bytearray()
    for _, row in read.iter_rows(manifest, artifacts):
        try:
            block += jsonl.dump_line(render(row, manifest))
        except DataError as e:
            raise HTTPException(422, f"trace {row.id}: {e}") from e
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _manifest(service: Service, key: str) -> DatasetManifest:
    if key in (".", "..") or "\x00" in key or len(key.encode()) > 200:
        raise HTTPException(422, "Invalid dataset key: expected the dataset_key of a build reply")
    manifest = read.find_manifest(service.artifacts, key) if is_key(key) else None
    if manifest is None:
        raise HTTPException(404, f"Dataset not found: {key}")
    return manifest


def _one_of(names: tuple[str, ...]) -> str:
    """`'a'`, `'a' or 'b'`, `'a', 'b', or 'c'`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) < 3:
        return " or ".join(quoted)
    return ", ".join(quoted[:-1]) + f", or {quoted[-1]}"


_STATUS: tuple[tuple[type[TuneloopError], Literal[409, 422, 500]], ...] = (
    (IdempotencyConflict, 409),
    (DatasetConflict, 409),
    (DatasetEmpty, 422),
    (DataError, 500),  # what the store itself keeps is damaged
)


async def _reply_expected_failure(request: Request, error: Exception) -> JSONResponse:
    """A sentence without the server's paths; the log has the whole one."""
    service: Service = request.app.state.service
    status: int = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
    headers = {"Retry-After": "5"} if status == 503 else None
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    detail = str(error).replace(f"{service.artifacts}/", "")
    detail = detail.replace(str(service.database.path), service.database.path.name)
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
