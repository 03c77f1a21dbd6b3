"""Web pages: the overview, traces and datasets.

These pages are read-only, without scripts, and bounded in size; a page mentions what it omits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from tuneloop.datasets import read
from tuneloop.datasets.schema import DatasetManifest, TraceRow, is_key
from tuneloop.errors import TuneloopError
from tuneloop.storage import files, paths
from tuneloop.store.db.cursor import Cursor, read_cursor, write_cursor
from tuneloop.store.db.search import Budget
from tuneloop.store.dependencies import Service, Svc, in_artifact_threads
from tuneloop.store.routes import datasets as dataset_routes
from tuneloop.store.routes import traces as trace_routes
from tuneloop.store.web import dataset_builder, review, run_pages
from tuneloop.store.web.dataset_builder import described
from tuneloop.store.web.render import page, problem, security_headers
from tuneloop.store.web.stored_runs import list_run_ids
from tuneloop.store.web.trace_view import newest_scores, pretty, show_labels, view_trace
from tuneloop.traces.schema import StoredTrace

PAGE_TRACES = 50
OVERVIEW_ITEMS = 5
PREVIEW_ROWS = 20
BUDGET = Budget(rows=200_000, seconds=2.0)
"""Limits of one search; when they are reached, the page offers to continue."""
MAX_RUN_IDS = 200
"""Maximum number of runs that a trace's page offers."""
SHOWN_LABELS = 100
"""Maximum number of labels, and of scores, on the page of a trace."""

_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

router = APIRouter()
router.include_router(run_pages.router)
router.include_router(review.router)
router.include_router(dataset_builder.router)  # before the page of a dataset named `new`


@router.api_route("/", **_LOOK)
@in_artifact_threads
def overview(service: Svc) -> Response:
    """Show the newest traces, datasets and runs."""
    newest = service.database.search("", limit=OVERVIEW_ITEMS, budget=BUDGET)
    try:
        datasets, runs, said = list_datasets(service), run_pages.list_runs(service), ""
    except TuneloopError as e:  # Traces can be shown even if the artifact store is unavailable.
        datasets, runs, said = [], run_pages.RunList([], 0), problem(e, service)
    return page(
        "overview",
        section="",
        trace_count=service.database.count(),
        traces=newest.results,
        dataset_count=len(datasets),
        datasets=datasets[:OVERVIEW_ITEMS],
        run_count=runs.total,
        runs=runs.shown[:OVERVIEW_ITEMS],
        problem=said,
    )


@router.api_route("/traces", **_LOOK)
def traces(
    service: Svc,
    q: Annotated[str, Query(max_length=1000)] = "",
    source: Annotated[str, Query(max_length=1000)] = "",
    cursor: str | None = None,
) -> Response:
    """Show all traces, or those that contain a text, newest first."""
    text, before = q.strip(), None if cursor is None else _read_cursor(cursor)
    found = service.database.search(
        text, limit=PAGE_TRACES, before=before, source=source or None, budget=BUDGET
    )
    asked = {name: value for name, value in (("q", text), ("source", source)) if value}
    return page(
        "traces",
        section="traces",
        q=text,
        source=source,
        found=found,
        first_url=_url("/traces", asked),
        older_url=found.next and _url("/traces", {**asked, "cursor": write_cursor(found.next)}),
        is_first=before is None,
    )


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _read_cursor(text: str) -> Cursor:
    try:
        return read_cursor(text)
    except ValueError as e:
        words = "The cursor is not a position in the list; start again with the newest traces"
        raise HTTPException(422, words) from e


@router.api_route("/traces/{trace_id}", **_LOOK)
def trace(trace_id: str, service: Svc) -> Response:
    """Show one trace."""
    name = str(_trace_id(trace_id))
    with service.database.reading(name) as found:
        if found is None:
            raise HTTPException(404, f"No trace has the id {trace_id}; it may have been deleted")
        return _trace_page(service, found.decoded(name))


def _trace_page(service: Service, found: StoredTrace) -> Response:
    name = str(found.id)
    labels = service.database.labels.find(SHOWN_LABELS, trace_id=name)
    return page(
        "trace",
        section="traces",
        view=view_trace(found),
        scores=newest_scores(service.database.scores.of_trace(name, SHOWN_LABELS)),
        labels=show_labels(labels),
        run_ids=_run_ids(service),
    )


def _run_ids(service: Service) -> list[str]:
    """Return the ids of runs that may train on a trace; the last ones by name if there are many."""
    if service.catalog.examples is None:
        return []
    try:
        return list_run_ids(service)[-MAX_RUN_IDS:]
    except TuneloopError:  # Traces can be shown even if the artifact store is unavailable.
        return []


@router.api_route("/traces/{trace_id}/trace.json", **_LOOK)
def trace_json(trace_id: str, service: Svc) -> Response:
    """Return the API's reply to a browser, which sends the token as a password."""
    reply = trace_routes.get_trace(_trace_id(trace_id), service)
    reply.headers.update(security_headers())
    return reply


def _trace_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as e:
        raise HTTPException(404, "This is not a valid trace id") from e


@dataclass(frozen=True)
class ListedDataset:
    """One entry of the list of datasets; the manifest is None if it is damaged."""

    key: str
    manifest: DatasetManifest | None
    problem: str = ""


@router.api_route("/datasets", **_LOOK)
@in_artifact_threads
def datasets(service: Svc) -> Response:
    """Show all published datasets."""
    return page("datasets", section="datasets", datasets=list_datasets(service))


def list_datasets(service: Service) -> list[ListedDataset]:
    """List all published datasets: damaged ones first, then the others, newest first."""
    keys = files.list_folders(paths.join(service.artifacts, "datasets"))
    found = [_listed(service, key) for key in keys if is_key(key)]
    listed = [dataset for dataset in found if dataset is not None]
    listed.sort(key=lambda one: one.manifest.created_at if one.manifest else "~", reverse=True)
    return listed


def _listed(service: Service, key: str) -> ListedDataset | None:
    try:
        manifest = read.find_manifest(service.artifacts, key)
    except TuneloopError as e:
        return ListedDataset(key, None, problem(e, service))
    return None if manifest is None else ListedDataset(key, manifest)


@dataclass
class Preview:
    """The first rows of a dataset."""

    rows: list[TraceRow] = field(default_factory=list)
    problem: str = ""


@router.api_route("/datasets/{key}", **_LOOK)
@in_artifact_threads
def dataset(key: str, service: Svc) -> Response:
    """Show one dataset with its first rows."""
    found = _listed(service, key) if is_key(key) else None
    if found is None:
        raise HTTPException(404, "No dataset has this key")
    manifest = found.manifest
    return page(
        "dataset",
        section="datasets",
        dataset=found,
        manifest=manifest,
        rules=described(manifest.account) if manifest and manifest.account else [],
        selection=_rules(manifest),
        filters=pretty(manifest.filters) if manifest and manifest.filters else "",
        preview=_preview(service, manifest) if manifest else Preview(),
        formats=sorted(service.catalog.export_formats),
    )


def _rules(manifest: DatasetManifest | None) -> str:
    """Return the rules of the selection as JSON; empty if there are none."""
    if manifest is None or manifest.selection is None:
        return ""
    return pretty(manifest.selection.model_dump(mode="json", exclude_defaults=True))


def _preview(service: Service, manifest: DatasetManifest) -> Preview:
    """Read the first rows without verifying them, which would mean reading the whole shard."""
    preview = Preview()
    rows = read.iter_rows(manifest, service.artifacts, 0)
    try:
        with contextlib.closing(rows):  # type: ignore[type-var]  # it is a generator
            preview.rows += (row for _, row in islice(rows, PREVIEW_ROWS))
    except TuneloopError as e:
        preview.problem = problem(e, service)
    return preview


@router.api_route("/datasets/{key}/export.jsonl", **_LOOK)
async def dataset_export(
    key: str, service: Svc, name: Annotated[str, Query(alias="format")] = "trace"
) -> Response:
    """Return the API's export to a browser, which sends the token as a password."""
    reply = await dataset_routes.export_dataset(key, service, name)
    reply.headers.update(security_headers())
    return reply
