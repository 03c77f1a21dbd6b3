"""Endpoints of datasets."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from itertools import chain
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from tuneloop import jsonl
from tuneloop.datasets import read
from tuneloop.datasets.schema import DatasetManifest, is_key
from tuneloop.errors import DataError
from tuneloop.store.catalog import Render
from tuneloop.store.dependencies import Damaged, Service, Svc, in_artifact_threads
from tuneloop.store.routes import examples
from tuneloop.store.routes.builds import one_of
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.store.routes.request_parsing import NDJSON
from tuneloop.store.routes.streams import Blocks, BlocksResponse, measured, stream_bytes

log = logging.getLogger(__name__)

_FIRST_BLOCK_BYTES = 1 << 16
"""Size of the first block; it is small, so that the client receives data early."""
_BLOCK_BYTES = 1 << 18
"""Size of later blocks. Every block costs a change of threads, and every slow client holds one."""
_RANGE = re.compile(r"bytes=(\d{1,15})-")

router = APIRouter(prefix="/api", responses=GUARDED)
Key = Annotated[
    str,
    Path(
        description="The `dataset_key` of a build reply.",
        examples=[examples.DATASET_KEY],
        json_schema_extra={"pattern": "^[A-Za-z0-9._-]+$", "minLength": 1, "maxLength": 200},
    ),
]


class DatasetListed(BaseModel):
    """One entry of the list of datasets."""

    dataset_key: str = Field(examples=[examples.DATASET_KEY])
    build_id: str = Field(examples=[examples.BUILD_ID])
    trace_count: int = Field(examples=[1])
    created_at: str = Field(examples=[examples.TIME])


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
        known = one_of(tuple(service.catalog.export_formats))
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
    return BlocksResponse(first, blocks, service.export_threads, stream_bytes(service.artifacts))


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
    response = BlocksResponse(
        first, blocks, service.export_threads, stream_bytes(service.artifacts)
    )
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
