"""Endpoints of datasets."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from itertools import chain
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tuneloop import jsonl
from tuneloop.datasets import read
from tuneloop.datasets.build import build
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, is_key
from tuneloop.errors import DataError
from tuneloop.store.catalog import Render
from tuneloop.store.dependencies import Damaged, Service, Svc, in_artifact_threads
from tuneloop.store.routes import bounds, examples, request_parsing
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import NDJSON
from tuneloop.store.routes.streams import Blocks, BlocksResponse, measured

log = logging.getLogger(__name__)

_FIRST_BLOCK_BYTES = 1 << 16
"""Size of the first block; it is small, so that the client receives data early."""
_BLOCK_BYTES = 1 << 18
"""Size of later blocks. Every block costs a change of threads, and every slow client holds one."""
_RANGE = re.compile(r"bytes=(\d{1,15})-")
_build_request = TypeAdapter(BuildRequest)

router = APIRouter(prefix="/api", responses=GUARDED)
Key = Annotated[
    str,
    Path(
        description="The `dataset_key` of a build reply.",
        examples=[examples.DATASET_KEY],
        json_schema_extra={"pattern": "^[A-Za-z0-9._-]+$", "minLength": 1, "maxLength": 200},
    ),
]


class DatasetBuilt(BaseModel):
    """Reply to a build."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset_key: str = Field(examples=[examples.DATASET_KEY])
    build_id: str = Field(examples=[examples.BUILD_ID])
    trace_count: int = Field(examples=[1])
    seed: int = Field(examples=[7])
    """Seed of the request, or a generated one if the request has none."""
    manifest_path: str = Field(examples=[f"datasets/{examples.DATASET_KEY}/manifest.json"])
    """Path of the manifest, relative to the artifacts prefix."""


class DatasetListed(BaseModel):
    """One entry of the list of datasets."""

    dataset_key: str = Field(examples=[examples.DATASET_KEY])
    build_id: str = Field(examples=[examples.BUILD_ID])
    trace_count: int = Field(examples=[1])
    created_at: str = Field(examples=[examples.TIME])


@router.post(
    "/datasets/build",
    status_code=201,
    response_model=DatasetBuilt,
    responses={
        **refusals(400, 409, 413, 422, 503),
        200: {"model": DatasetBuilt, "description": "The same dataset was built before"},
    },
    openapi_extra=request_parsing.documented(
        {"$ref": "#/components/schemas/BuildRequest"}, examples.BUILD
    ),
)
async def build_dataset(request: Request, service: Svc) -> JSONResponse:
    """Publish traces as an immutable dataset; the status is 200 if it was built before."""
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> JSONResponse:
        asked = request_parsing.parse(_build_request, body)
        if asked.recipe not in service.catalog.recipes:
            known = _one_of(service.catalog.recipes)
            raise HTTPException(422, f"Unknown recipe: {asked.recipe}. Must be {known}")
        bounds.check_filters(asked.filters, service.limits)
        with service.metrics.building() as job:
            manifest, created = build(
                lambda seed: service.database.selection(asked, seed),
                asked,
                service.artifacts,
                now=service.clock(),
                new_seed=service.new_seed,
            )
            job.outcome, job.count = "created" if created else "existing", manifest.trace_count
        reply = DatasetBuilt(
            dataset_key=manifest.dataset_key,
            build_id=manifest.build_id,
            trace_count=manifest.trace_count,
            seed=manifest.seed,
            manifest_path=f"datasets/{manifest.dataset_key}/manifest.json",
        )
        return JSONResponse(reply.model_dump(mode="json"), status_code=201 if created else 200)

    return await to_thread.run_sync(work, limiter=service.build_threads)


@router.get("/datasets", responses=refusals(503))
@in_artifact_threads
def list_datasets(service: Svc) -> list[DatasetListed]:
    """List all published datasets by key; damaged datasets are logged and omitted."""
    listed = []
    for key in read.list_manifest_keys(service.artifacts):
        try:
            manifest = read.load_manifest(service.artifacts, key)
        except DataError as e:
            log.warning("omitted from the list of datasets: %s", e)
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


@router.get(
    "/datasets/{key}",
    responses={
        **refusals(404, 422, 503),
        200: {"content": {"application/json": {"example": examples.MANIFEST}}},
    },
)
@in_artifact_threads
def get_dataset(key: Key, service: Svc) -> DatasetManifest:
    """Return the manifest of a dataset."""
    return _manifest(service, key)


@router.get(
    "/datasets/{key}/export.jsonl",
    status_code=200,
    response_class=BlocksResponse,
    responses={
        **refusals(404, 422, 503),
        200: {"content": {NDJSON: {"example": examples.EXPORTED}}},
    },
)
async def export_dataset(
    key: Key,
    service: Svc,
    name: Annotated[
        str, Query(alias="format", description="Format of the records.", examples=["trace"])
    ] = "trace",
    shard: Annotated[
        int,
        Query(
            description="Index of this reader, less than `num_shards`.",
            examples=[0],
            json_schema_extra={"minimum": 0},
        ),
    ] = 0,
    num_shards: Annotated[
        int,
        Query(
            description="Number of readers that share the dataset.",
            examples=[1],
            json_schema_extra={"minimum": 1},
        ),
    ] = 1,
) -> StreamingResponse:
    """Export a dataset as one record per line, in the manifest's order.

    `num_shards` readers can share a dataset by shard files: reader `shard` gets every
    `num_shards`-th file, starting with file number `shard`.
    """
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise HTTPException(422, "shard must be at least 0 and less than num_shards")
    render = service.catalog.export_formats.get(name)
    if render is None:
        known = _one_of(tuple(service.catalog.export_formats))
        raise HTTPException(422, f"Invalid format: {name}. Must be {known}")

    def begin() -> tuple[bytes, Blocks]:
        manifest = _manifest(service, key)
        if damage := read.find_damage(manifest, service.artifacts):
            raise Damaged(f"datasets/{key}: {damage}; restore it or rebuild the dataset")
        shards = range(shard, len(manifest.shards), num_shards)
        lines = _export_blocks(manifest, service.artifacts, render, shards)
        blocks = measured(lines, service.metrics, name)
        try:
            # A failure in the first block can still be answered with an error status.
            return next(blocks), blocks
        except DataError as e:
            shown = manifest.shards[shard].name  # The first block comes from this shard.
            raise Damaged(f"datasets/{key}: {shown} is damaged; restore or rebuild it") from e

    first, blocks = await to_thread.run_sync(begin, limiter=service.export_threads)
    return BlocksResponse(first, blocks, service.export_threads, service.artifacts)


def _export_blocks(
    manifest: DatasetManifest, artifacts: str, render: Render, shards: Iterable[int]
) -> Blocks:
    """Yield records in blocks, so that the server changes threads per block and not per line."""
    block, size = bytearray(), _FIRST_BLOCK_BYTES
    pieces = (read.iter_row_blocks(manifest, artifacts, number) for number in shards)
    for rows in chain.from_iterable(pieces):
        try:
            block += jsonl.encode_lines([render(row, manifest) for row in rows])
        except DataError as e:
            raise HTTPException(422, f"dataset {manifest.dataset_key}: {e}") from e
        if len(block) >= size:
            yield bytes(block)
            block.clear()
            size = _BLOCK_BYTES
    yield bytes(block)


_ROWS = {NDJSON: {"schema": {"type": "string"}, "example": examples.SHARD_ROW}}


@router.get(
    "/datasets/{key}/shards/{name}",
    status_code=200,
    response_class=BlocksResponse,
    responses={
        **refusals(404, 416, 422, 503),
        200: {"content": _ROWS},
        206: {"content": _ROWS, "description": "The rest of the file"},
    },
)
async def get_shard(
    key: Key,
    name: Annotated[
        str, Path(description="Name of a shard in the manifest.", examples=[examples.SHARD_NAME])
    ],
    service: Svc,
    byte_range: Annotated[
        str,
        Header(
            alias="range", description="First byte to send, as `bytes=N-`.", examples=["bytes=0-"]
        ),
    ] = "bytes=0-",
) -> StreamingResponse:
    """Return a shard of a dataset, named in its manifest, byte for byte.

    `Range: bytes=N-` resumes a broken download; with any other range, the whole file is sent.
    """
    found = _RANGE.fullmatch(byte_range)
    start = int(found[1]) if found else 0

    def begin() -> tuple[bytes, Blocks, int]:
        manifest = _manifest(service, key)
        shard = next((each for each in manifest.shards if each.name == name), None)
        if shard is None:
            raise HTTPException(404, f"Dataset {key} has no such shard: {name}")
        if start and start >= shard.size_bytes:
            raise HTTPException(416, f"{name} has {shard.size_bytes} bytes")
        stored = read.iter_shard_bytes(manifest, service.artifacts, shard, start)
        blocks = measured(stored, service.metrics, "shard")
        try:
            return next(blocks), blocks, shard.size_bytes
        except DataError as e:
            raise Damaged(f"datasets/{key}: {name} is damaged; restore or rebuild it") from e

    first, blocks, size = await to_thread.run_sync(begin, limiter=service.export_threads)
    response = BlocksResponse(first, blocks, service.export_threads, service.artifacts)
    response.headers["content-length"] = str(size - start)
    if start:
        response.status_code = 206
        response.headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    return response


@router.delete("/datasets/{key}", status_code=204, responses=refusals(404, 422, 503))
@in_artifact_threads
def delete_dataset(key: Key, service: Svc) -> None:
    """Delete a dataset with its rows; runs that were planned for it can no longer read it."""
    _manifest(service, key)
    read.delete_dataset(service.artifacts, key)


def _manifest(service: Service, key: str) -> DatasetManifest:
    if key in (".", "..") or "\x00" in key or len(key.encode()) > 200:
        raise HTTPException(422, "Invalid dataset key: expected the dataset_key of a build reply")
    try:
        manifest = read.find_manifest(service.artifacts, key) if is_key(key) else None
    except DataError as e:
        raise Damaged(
            f"datasets/{key}/manifest.json: the file is damaged, see the store's log for details;"
            " restore it or rebuild the dataset"
        ) from e
    if manifest is None:
        raise HTTPException(404, f"Dataset not found: {key}")
    return manifest


def _one_of(names: tuple[str, ...]) -> str:
    """Join names like `'a'`, `'a' or 'b'`, or `'a', 'b', or 'c'`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) < 3:
        return " or ".join(quoted)
    return ", ".join(quoted[:-1]) + f", or {quoted[-1]}"
