"""The part of a run's page that changes while the run is unfinished, and its stream of events."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import Response

from tuneloop.artifacts import layout
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.training_metrics import Metrics, parse_metrics
from tuneloop.errors import DataError, TuneloopError
from tuneloop.history.stored import StoredRun
from tuneloop.storage import files, paths
from tuneloop.store.dependencies import Service, Svc, in_artifact_threads
from tuneloop.store.shared_reads import SharedReads
from tuneloop.store.streams import EventsResponse, News
from tuneloop.store.web import stored_runs
from tuneloop.store.web.curves import Curve, Point, draw_loss, draw_speed
from tuneloop.store.web.render import fragment, problem, security_headers

METRICS_WHILE_TRAINING = "resume/metrics.jsonl"
"""File below the prefix of train, which training writes with each checkpoint."""
MAX_NEWEST = 400
"""Maximum number of points from heartbeats; if there are more, every second one is dropped."""
READ_THREADS = 4
"""Maximum number of watched runs that are read at the same time."""

router = APIRouter()
_threads = CapacityLimiter(READ_THREADS)


@dataclass(frozen=True)
class Training:
    """What is known about the training of a run."""

    metrics: Metrics = field(default_factory=Metrics)
    problem: str = ""
    """The problem with metrics.jsonl; empty if there is none."""
    version: str = ""
    """Identifies the content of metrics.jsonl; empty if there is none."""
    newest: tuple[Point, ...] = ()
    """Losses of later steps, from heartbeats that this process saw."""


@dataclass(frozen=True)
class RunView:
    """A run as its page shows it."""

    run: StoredRun
    training: Training
    html: str
    """The part of the page that changes."""
    is_live: bool
    """Whether the run is unfinished."""
    is_running: bool
    """Whether a stage is running."""

    @property
    def version(self) -> str:
        """Identifies the part of the page."""
        return hashlib.sha256(self.html.encode()).hexdigest()[:16]


def view_run(
    service: Service, run_id: str, before: RunView | None = None, *, verify: bool = False
) -> RunView:
    """Read a run for its page.

    Args:
        service: the state of the store.
        run_id: id of the run.
        before: an earlier view, of which unchanged metrics and the heartbeats are kept.
        verify: check every file that a record names.

    Raises:
        NoRun: there is no such run.
    """
    run = stored_runs.find_run(service, run_id, verify=verify)
    if run is None:
        raise NoRun(f"{run_id}: no run has this id")
    training = _training(service, run, before.training if before else Training())
    loss: Curve | None = None
    speed: Curve | None = None
    if not training.problem:
        loss = draw_loss(training.metrics, training.newest)
        speed = draw_speed(training.metrics)
    is_live = run.manifest is not None and any(
        stage.record is None and stage.state != "unreadable" for stage in run.stages
    )
    done = {stage.name for stage in run.stages if stage.record is not None}
    html = fragment(
        "run_live",
        run=run,
        manifest=run.manifest,
        training=training,
        curve=loss,
        speed=speed,
        is_live=is_live,
        has_examples=service.catalog.examples is not None and "export" in done,
    )
    is_running = any(stage.state == "running" for stage in run.stages)
    return RunView(run, training, html, is_live, is_running)


class NoRun(DataError):
    """There is no run with this id."""


def _training(service: Service, run: StoredRun, before: Training) -> Training:
    stage = next((stage for stage in run.stages if stage.name == "train"), None)
    if stage is None or stage.state == "unreadable":
        return Training()
    read = partial(_metrics, service, run.run_id, stage.record)
    try:
        metrics, version = read(before)
    except TuneloopError as e:
        return Training(problem=problem(e, service))
    progress, newest = stage.progress, before.newest
    loss = None if stage.record is not None or progress is None else progress.loss
    if progress and progress.step and loss is not None and math.isfinite(loss):
        # After a restart, training repeats the steps since the checkpoint.
        newest = tuple(point for point in newest if point[0] < progress.step)
        newest = (*newest, (progress.step, loss))
    newest = tuple(point for point in newest if point[0] > len(metrics.losses))
    newest = newest[::-2][::-1] if len(newest) > MAX_NEWEST else newest
    return Training(metrics, "", version, newest)


def _metrics(
    service: Service, run_id: str, record: Record | None, before: Training
) -> tuple[Metrics, str]:
    """Return the metrics and their version; files that did not change are not read again."""
    if record is not None:
        version = f"record {record.run_id} {record.attempt}"
        is_known = version == before.version
        found = before.metrics if is_known else stored_runs.load_metrics(record, service.artifacts)
        return found, version
    prefix = layout.stage_prefix(service.artifacts, run_id, "train")
    url = paths.join(prefix, METRICS_WHILE_TRAINING)
    size = files.size_bytes(url)
    if size is None or size > stored_runs.MAX_METRICS_BYTES:
        return Metrics(), ""
    if before.version == f"{size} bytes":
        return before.metrics, before.version
    try:
        return parse_metrics(files.read(url)), f"{size} bytes"
    except FileNotFoundError:
        return Metrics(), ""


def shared_view(service: Service, run_id: str) -> RunView:
    """Return a view of a run that is a few seconds old and shared by all viewers.

    Raises:
        HTTPException: there is no such run.
    """
    views: SharedReads[RunView] = service.views
    try:
        return views.get(run_id, lambda before: view_run(service, run_id, before))
    except NoRun as e:
        raise HTTPException(404, "No run has this id") from e


@router.get("/runs/{run_id}/live", include_in_schema=False)
@in_artifact_threads
def live(run_id: str, service: Svc) -> Response:
    """Return the part of a run's page that changes, for browsers that get no events."""
    view = shared_view(service, run_id)
    state = "unfinished" if view.is_live else "finished"
    headers = {**security_headers(), "X-Run": state, "X-Run-Version": view.version}
    return Response(view.html, headers=headers, media_type="text/html")


@router.get("/runs/{run_id}/events", include_in_schema=False)
async def events(
    run_id: str,
    service: Svc,
    seen: Annotated[str, Query(max_length=64)] = "",
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Stream the part of a run's page that changes, each time that it has changed."""
    if service.streams.are_full:
        raise HTTPException(503, "Too many viewers; the page asks again", {"Retry-After": "5"})
    look = partial(shared_view, service, run_id)
    await to_thread.run_sync(look, limiter=_threads)  # replies 404 if there is no such run

    async def latest() -> News | None:
        try:
            view = await to_thread.run_sync(look, limiter=_threads)
        except (
            TuneloopError,
            HTTPException,
        ):  # the storage does not answer, or the run was deleted
            return None
        return News(view.version, view.html, not view.is_live)

    seen = seen if last_event_id is None else last_event_id
    return EventsResponse(service.streams.events(latest, seen), security_headers())
