"""Read runs from the artifact store for their web pages.

No file content can make a page fail. For a truncated or unrelated file, the page shows a message
next to the parts that could be read. Only files in the run's own folder and files that its records
name are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.progress import Progress, progress_url
from tuneloop.artifacts.reading import read_model
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.run_manifest import RunManifest, read_run_manifest
from tuneloop.artifacts.verdict import ArchivedVerdict, verdict_url
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError, TuneloopError
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths
from tuneloop.store.dependencies import Service
from tuneloop.store.web.render import parse_time, problem

MAX_METRICS_BYTES = 32 << 20
"""Size limit of metrics.jsonl, which allows about 100,000 steps."""
ALIVE = timedelta(seconds=30)
"""A stage without a progress report for this long is shown as stopped; stages report progress every
two seconds."""
CURVE_WIDTH, CURVE_HEIGHT, CURVE_POINTS = 600, 120, 300


@dataclass(frozen=True)
class StoredStage:
    """The current state of one stage."""

    name: str
    state: str
    """One of done, reused, running, stopped, not started, unreadable, or a verdict's state."""
    note: str = ""
    """A sentence about the state; may be empty."""
    record: Record | None = None


@dataclass(frozen=True)
class StoredRun:
    """The readable parts of one run."""

    run_id: str
    manifest: RunManifest | None
    problem: str
    """The problem with the manifest; empty if there is none."""
    stages: tuple[StoredStage, ...]

    @property
    def state(self) -> str:
        """Return the first unfinished stage and its state, or `finished`."""
        for stage in self.stages:
            if stage.record is None:
                return f"{stage.name} {stage.state}"
        return "finished"

    @property
    def started_at(self) -> datetime | None:
        """Return the start time of the run's newest stage; None if no stage has a record."""
        times = (parse_time(s.record.started_at) for s in self.stages if s.record)
        return max((time for time in times if time), default=None)

    def result(self, stage: str, name: str) -> Any:
        """Return a result from the record of a stage, or None if there is none."""
        found = next((s.record for s in self.stages if s.name == stage), None)
        return None if found is None else found.results.get(name)

    def number(self, stage: str, name: str) -> float | None:
        """Return a result if it is a number, otherwise None."""
        value = self.result(stage, name)
        return float(value) if isinstance(value, float) or type(value) is int else None


@dataclass(frozen=True)
class Curve:
    """The loss curve of a training run, as a line and as text."""

    points: str
    """Points of an SVG polyline within CURVE_WIDTH by CURVE_HEIGHT; loss 0 is at the bottom."""
    validation: str
    """Points of the validation loss in the same picture; empty without validation."""
    highest: float
    """The highest loss, which is at the top."""
    steps: int
    words: str
    """A description of the curve."""


def list_run_ids(service: Service) -> list[str]:
    """List the names of all folders that can be runs, sorted."""
    folder = paths.join(service.artifacts, "training_runs")
    return [name for name in files.list_folders(folder) if is_key(name)]


def find_run(service: Service, run_id: str, *, verify: bool = False) -> StoredRun | None:
    """Read a run with its stages; returns None if there is no such run.

    Args:
        service: the state of the store, with the artifacts prefix.
        run_id: id of the run, which is the name of its folder.
        verify: check every file that a record names, which takes one request per file.
    """
    if not is_key(run_id):
        return None
    prefix = layout.run_prefix(service.artifacts, run_id)
    manifest, said = None, ""
    try:
        manifest = read_run_manifest(service.artifacts, run_id)
        if manifest is None and not files.list_folders(prefix):
            return None
        if manifest is None:
            said = "The folder has no run_manifest.json, so it is not a tuneloop run."
        elif manifest.run_id != run_id:
            said = "The run_manifest.json in this folder belongs to another run."
    except TuneloopError as e:
        said = problem(e, service)
    known = [*STAGES, *sorted(set(manifest.stages) - set(STAGES))] if manifest else [*STAGES]
    names = [name for name in known if is_key(name)]
    stages = tuple(_stage(service, run_id, name, verify) for name in names)
    return StoredRun(run_id, manifest, said, stages)


def _stage(service: Service, run_id: str, name: str, verify: bool) -> StoredStage:
    try:
        record = _record(service.artifacts, run_id, name, verify)
        if record is None:
            return _unfinished(service, run_id, name)
    except TuneloopError as e:
        return StoredStage(name, "unreadable", problem(e, service))
    own = f"training_runs/{run_id}/{name}/"
    if all(file.path.startswith(own) for file in record.outputs):
        return StoredStage(name, "done", record=record)
    return StoredStage(name, "reused", "This result comes from another run.", record)


def _record(artifacts: str, run_id: str, stage: str, verify: bool) -> Record | None:
    url = layout.record_url(artifacts, run_id, stage)
    record = read_model(Record, url)
    if record is not None and (record.run_id, record.stage) != (run_id, stage):
        raise DataError(f"{url}: the record belongs to another stage or run; restore the file")
    if record is not None and verify:
        records.verify_outputs(record, artifacts, url)
    return record


def _unfinished(service: Service, run_id: str, name: str) -> StoredStage:
    """Determine the state of a stage without a record from its progress and verdict files."""
    prefix = layout.stage_prefix(service.artifacts, run_id, name)
    progress = read_model(Progress, progress_url(prefix))
    verdict = read_model(ArchivedVerdict, verdict_url(prefix))
    beat = parse_time(progress.updated_at) if progress else None
    step = f"Step {progress.step} of {progress.total}." if progress and progress.total else ""
    if beat is not None and service.clock() - beat < ALIVE:
        return StoredStage(name, "running", step)
    if verdict is not None:
        said = f"{verdict.cause.rstrip('.')}." + (f" {verdict.fix}" if verdict.fix else "")
        return StoredStage(name, verdict.state, said)
    if progress is not None:
        return StoredStage(name, "stopped", f"{step} Run the spec again to continue.".strip())
    return StoredStage(name, "not started")


def read_output(record: Record, name: str, artifacts: str, limit_bytes: int) -> bytes:
    """Read and verify an output of a stage.

    Raises:
        DataError: the file is missing, was changed, or is too large for a page.
    """
    file = record.output(name)
    if file.size_bytes > limit_bytes:
        raise DataError(
            f"{file.path}: the file has {file.size_bytes} bytes, expected at most {limit_bytes} for"
            " a page; download it instead"
        )
    return records.read_output(file, artifacts)


def load_curve(train: Record, artifacts: str) -> Curve | None:
    """Read the loss of each step; returns None if there are too few steps for a line.

    Raises:
        DataError: metrics.jsonl is missing or invalid.
    """
    data = read_output(train, "metrics.jsonl", artifacts, MAX_METRICS_BYTES)
    losses: list[float] = []
    validations: dict[int, float] = {}
    for number, line in jsonl.iter_jsonl(io.BytesIO(data), "metrics.jsonl"):
        if isinstance(validation := line.get("validation_loss"), float):
            validations[0 if line.get("step") == 0 else len(losses) + 1] = validation
        if line.get("step") == 0:
            continue  # only the validation loss before training
        loss = line.get("loss")
        if not isinstance(loss, float):
            raise DataError(
                f"metrics.jsonl:{number}: found no loss, expected a number; restore the file"
            )
        losses.append(loss)
    return _draw(losses, validations) if len(losses) > 1 else None


def _draw(losses: Sequence[float], validations: Mapping[int, float]) -> Curve:
    """Draw the loss of each step, and the validation losses by the number of finished steps."""
    last = len(losses) - 1
    lowest, highest = min(losses), max(*losses, *validations.values())
    count = min(len(losses), CURVE_POINTS)
    shown = [round(n * last / (count - 1)) for n in range(count)]
    scale = CURVE_HEIGHT / (highest if highest > 0 else 1.0)

    def points(values: Iterable[tuple[int, float]]) -> str:
        return " ".join(
            f"{CURVE_WIDTH * min(n, last) / last:.1f},{CURVE_HEIGHT - max(value, 0.0) * scale:.1f}"
            for n, value in values
        )

    words = (
        f"Loss by step: {losses[0]:.3g} at step 1, {losses[-1]:.3g} at step {last + 1}; lowest"
        f" {lowest:.3g} at step {losses.index(lowest) + 1}."
    )
    if validations:
        best = min(validations, key=lambda step: (validations[step], step))
        words += f" Validation loss: lowest {validations[best]:.3g} after step {best}."
    drawn = points((n, losses[n]) for n in shown)
    return Curve(drawn, points(validations.items()), highest, last + 1, words)
