"""Endpoints that build datasets, and that show what a build would select."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Annotated, TypeVar

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from tuneloop.datasets import read
from tuneloop.datasets.build import build
from tuneloop.datasets.recipe_hint import recipe_hint
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, Selection, is_key
from tuneloop.datasets.selection.account import SelectionAccount
from tuneloop.errors import DataError
from tuneloop.store.db.candidates import Members
from tuneloop.store.db.kept import KEPT_TRACES, Kept
from tuneloop.store.dependencies import Damaged, Service, Svc
from tuneloop.store.routes import bounds, examples, request_parsing
from tuneloop.store.routes.refusals import GUARDED, refusals

router = APIRouter(prefix="/api", responses=GUARDED)
_build_request = TypeAdapter(BuildRequest)
_BODY = request_parsing.documented({"$ref": "#/components/schemas/BuildRequest"}, examples.BUILD)
T = TypeVar("T")


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
    account: SelectionAccount | None = Field(examples=[examples.ACCOUNT])
    """What each rule of the selection removed; null for a dataset of an earlier version."""


class DatasetPreview(BaseModel):
    """What a build would select."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset_key: str = Field(examples=[examples.DATASET_KEY])
    exists: bool = Field(examples=[False])
    """Whether a dataset with this key is published already."""
    trace_count: int = Field(examples=[1])
    seed: int = Field(examples=[7])
    """Seed of the request, or a generated one. Build with this seed to get the same traces."""
    account: SelectionAccount = Field(examples=[examples.ACCOUNT])
    """What each rule of the selection removes."""
    preview_id: str | None = Field(examples=[examples.PREVIEW_ID])
    """`preview` of a build of the same request and seed, which then need not select again; null
    for more than a million traces."""
    recipe_hint: str | None = Field(default=None, examples=[None])
    """A sentence that names a recipe that suits the traces better; null if there is none."""


@router.post(
    "/datasets/build",
    status_code=201,
    response_model=DatasetBuilt,
    responses={
        **refusals(400, 409, 413, 422, 503),
        200: {"model": DatasetBuilt, "description": "The same dataset was built before"},
    },
    openapi_extra=_BODY,
)
async def build_dataset(
    request: Request,
    service: Svc,
    preview: Annotated[
        str | SkipJsonSchema[None],
        Query(
            description="`preview_id` of a preview of the same request and seed. The build"
            " publishes what it has selected. After ten minutes, or if one of the traces was"
            " deleted, traces are selected anew.",
            examples=[examples.PREVIEW_ID],
        ),
    ] = None,
) -> JSONResponse:
    """Publish traces as an immutable dataset; the status is 200 if it was built before."""
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> JSONResponse:
        asked = request_parsing.parse(_build_request, body)
        manifest, created = publish(service, asked, preview)
        reply = DatasetBuilt(
            dataset_key=manifest.dataset_key,
            build_id=manifest.build_id,
            trace_count=manifest.trace_count,
            seed=manifest.seed,
            manifest_path=f"datasets/{manifest.dataset_key}/manifest.json",
            account=manifest.account,
        )
        return JSONResponse(reply.model_dump(mode="json"), status_code=201 if created else 200)

    return await to_thread.run_sync(work, limiter=service.build_threads)


@router.post(
    "/datasets/preview",
    status_code=200,
    response_model=DatasetPreview,
    responses=refusals(400, 413, 422, 503),
    openapi_extra=_BODY,
)
async def preview_dataset(request: Request, service: Svc) -> JSONResponse:
    """Count what a build would select, rule by rule, without writing anything."""
    body = await request_parsing.read(request, request_parsing.MAX_TRACE_BYTES)

    def work() -> JSONResponse:
        asked = request_parsing.parse(_build_request, body)
        check(service, asked)
        published = find_published(service, asked)
        seed = preview_seed(service, asked, published)
        with selecting(service, asked, seed) as selection:
            account = selection.account or SelectionAccount(considered=0, selected=0)
            preview_id = keep(service, asked, seed, selection)
            hint = recipe_hint(asked.recipe, selection.rows)
        reply = DatasetPreview(
            dataset_key=asked.dataset_key,
            exists=published is not None,
            trace_count=selection.count,
            seed=seed,
            account=account,
            preview_id=preview_id,
            recipe_hint=hint,
        )
        return JSONResponse(reply.model_dump(mode="json"))

    return await to_thread.run_sync(work, limiter=service.build_threads)


def keep(service: Service, asked: BuildRequest, seed: int, selection: Selection) -> str | None:
    """Keep the selection of a preview for the build; returns its id, or None if it is too large."""
    account, read_numbers = selection.account, selection.read_numbers
    if account is None or read_numbers is None or selection.count > KEPT_TRACES:
        return None
    return service.kept.keep(asked, seed, Kept(read_numbers(), account))


def publish(
    service: Service, asked: BuildRequest, preview: str | None = None
) -> tuple[DatasetManifest, bool]:
    """Build a dataset; returns its manifest, and whether it is new.

    Args:
        service: the state of the store.
        asked: the request.
        preview: id of a preview of the request, of which the selection is used if it is kept.
    """
    check(service, asked)
    with service.metrics.building() as job:
        manifest, created = build(
            lambda seed: selecting(service, asked, seed, preview),
            asked,
            service.artifacts,
            now=service.clock(),
            new_seed=service.new_seed,
        )
        job.outcome, job.count = "created" if created else "existing", manifest.trace_count
    return manifest, created


def find_published(service: Service, asked: BuildRequest) -> DatasetManifest | None:
    """Return the manifest of the dataset that a request would build; None if it is new."""
    try:
        return read.find_manifest(service.artifacts, asked.dataset_key)
    except DataError as e:
        raise Damaged(f"datasets/{asked.dataset_key}/manifest.json: the file is damaged") from e


def preview_seed(service: Service, asked: BuildRequest, published: DatasetManifest | None) -> int:
    """Return the seed that a build would use."""
    if asked.seed is not None:
        return asked.seed
    return service.new_seed() if published is None else published.seed


def selecting(
    service: Service, asked: BuildRequest, seed: int, preview: str | None = None
) -> AbstractContextManager[Selection]:
    """Select the traces of a request from a snapshot, unless a preview has selected them.

    Raises:
        HTTPException: the request names an unknown recipe or dataset, asks too much of the
            database, or needs a package that is not installed.
    """
    check(service, asked)
    kept = service.kept.find(preview, asked, seed)
    return service.database.selection(asked, seed, _members(service, asked), kept)


def check(service: Service, asked: BuildRequest) -> None:
    """Refuse a request that names something unknown, or that would take a database too long."""
    if asked.recipe not in service.catalog.recipes:
        known = one_of(service.catalog.recipes)
        raise HTTPException(422, f"Unknown recipe: {asked.recipe}. Must be {known}")
    rules = asked.selection
    named = [] if rules is None else [*rules.fields(), *rules.datasets]
    bounds.check_filters([*asked.filters, *named], service.limits)
    if rules is None:
        return
    try:
        import numpy  # noqa: F401

        if rules.near_duplicates is not None:
            import rensa  # noqa: F401
    except ModuleNotFoundError as e:
        words = f"Rules of a selection need the package {e.name}, which this store lacks"
        raise HTTPException(422, f"{words}; install tuneloop[data] there") from e


def _members(service: Service, asked: BuildRequest) -> Members:
    keys = [] if asked.selection is None else sorted(asked.selection.datasets)
    manifests = [_parent(service, key) for key in keys]
    return (
        (number, trace_id)
        for number, manifest in enumerate(manifests)
        for trace_id in _ids(service, manifest)
    )


def _parent(service: Service, key: str) -> DatasetManifest:
    try:
        manifest = read.find_manifest(service.artifacts, key) if is_key(key) else None
    except DataError as e:
        raise Damaged(f"datasets/{key}/manifest.json: the file is damaged; rebuild it") from e
    if manifest is None:
        raise HTTPException(422, f"selection.datasets: Dataset not found: {key[:200]}")
    return manifest


def _ids(service: Service, manifest: DatasetManifest) -> Iterator[str]:
    try:
        for _, row in read.iter_rows(manifest, service.artifacts):
            yield row.id
    except DataError as e:
        key = manifest.dataset_key
        raise Damaged(f"datasets/{key}: a shard is damaged; restore or rebuild it") from e


def one_of(names: tuple[str, ...]) -> str:
    """Join names like `'a'`, `'a' or 'b'`, or `'a', 'b', or 'c'`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) < 3:
        return " or ".join(quoted)
    return ", ".join(quoted[:-1]) + f", or {quoted[-1]}"
