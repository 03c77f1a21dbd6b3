"""Read one run from its files, for people. No file content can make this fail.

For a truncated or unrelated file, the run carries a message next to the parts that could be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import ArchivedVerdict, verdict_url
from tuneloop.artifacts.progress import Progress, progress_url
from tuneloop.artifacts.reading import read_model
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_manifest import RunManifest, read_run_manifest
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError, TuneloopError
from tuneloop.stages.pipelines import TRAINING_STAGES, ordered
from tuneloop.storage import files

ALIVE = timedelta(seconds=30)
"""A stage without a progress report for this long counts as stopped; stages report progress every
two seconds."""

Describe = Callable[[TuneloopError], str]
"""Returns the text of an error for the reader."""


@dataclass(frozen=True)
class StoredStage:
    """The current state of one stage."""

    name: str
    state: str
    """One of done, reused, running, stopped, not started, unreadable, or a verdict's state."""
    note: str = ""
    """A sentence about the state; may be empty."""
    record: Record | None = None
    progress: Progress | None = None
    """The last heartbeat of a stage without a record; None if there is none."""


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


def read_run(
    artifacts: str, run_id: str, *, now: datetime, verify: bool = False, describe: Describe = str
) -> StoredRun | None:
    """Read a run with its stages; returns None if there is no such run.

    Args:
        artifacts: URL of the artifacts prefix.
        run_id: id of the run, which is the name of its folder.
        now: the current time, which tells a running stage from a stopped one.
        verify: check every file that a record names, which takes one request per file.
        describe: returns the text of an error in the run's files.
    """
    manifest, said = None, ""
    try:
        manifest = read_run_manifest(artifacts, run_id)
        if manifest is None and not files.list_folders(layout.run_prefix(artifacts, run_id)):
            return None
        said = manifest_problem(manifest, run_id)
    except TuneloopError as e:
        said = describe(e)
    stages = tuple(
        _stage(artifacts, run_id, name, now, verify, describe) for name in stage_names(manifest)
    )
    return StoredRun(run_id, manifest, said, stages)


def manifest_problem(manifest: RunManifest | None, run_id: str) -> str:
    """Return what is wrong with the manifest in the folder of a run; empty if nothing is."""
    if manifest is None:
        return "The folder has no run_manifest.json, so it is not a tuneloop run."
    if manifest.run_id != run_id:
        return "The run_manifest.json in this folder belongs to another run."
    return ""


def stage_names(manifest: RunManifest | None) -> list[str]:
    """Return the stages of a run in order; stages of a newer tuneloop come last.

    Without a manifest, these are the stages of a training run.
    """
    planned = manifest.stages if manifest and manifest.stages else TRAINING_STAGES
    # A name from a file becomes a part of a URL.
    return [name for name in ordered(planned) if is_key(name)]


def _stage(
    artifacts: str, run_id: str, name: str, now: datetime, verify: bool, describe: Describe
) -> StoredStage:
    try:
        record = read_record(artifacts, run_id, name)
        if record is None:
            return read_unfinished(artifacts, run_id, name, now)
        if verify:
            records.verify_outputs(record, artifacts, layout.record_url(artifacts, run_id, name))
    except TuneloopError as e:
        return StoredStage(name, "unreadable", describe(e))
    if is_own(record):
        return StoredStage(name, "done", record=record)
    return StoredStage(name, "reused", "This result comes from another run.", record)


def read_record(artifacts: str, run_id: str, stage: str) -> Record | None:
    """Read the record of a stage without its outputs; None if it is not published.

    Raises:
        DataError: the file is not the record of this stage.
    """
    url = layout.record_url(artifacts, run_id, stage)
    record = read_model(Record, url)
    if record is not None and (record.run_id, record.stage) != (run_id, stage):
        raise DataError(f"{url}: the record belongs to another stage or run; restore the file")
    return record


def is_own(record: Record) -> bool:
    """Return whether the run of a record made the outputs itself, and did not adopt them."""
    own = f"training_runs/{record.run_id}/{record.stage}/"
    return all(file.path.startswith(own) for file in record.outputs)


def read_unfinished(artifacts: str, run_id: str, name: str, now: datetime) -> StoredStage:
    """Determine the state of a stage without a record from its progress and verdict files.

    Raises:
        DataError: one of the two files is broken.
    """
    prefix = layout.stage_prefix(artifacts, run_id, name)
    progress = read_model(Progress, progress_url(prefix))
    verdict = read_model(ArchivedVerdict, verdict_url(prefix))
    step = f"Step {progress.step} of {progress.total}." if progress and progress.total else ""
    if is_alive(progress, now):
        return StoredStage(name, "running", step, progress=progress)
    if verdict is not None:
        said = f"{verdict.cause.rstrip('.')}." + (f" {verdict.fix}" if verdict.fix else "")
        return StoredStage(name, verdict.state, said, progress=progress)
    if progress is not None:
        said = f"{step} Run the spec again to continue.".strip()
        return StoredStage(name, "stopped", said, progress=progress)
    return StoredStage(name, "not started")


def is_alive(progress: Progress | None, now: datetime) -> bool:
    """Return whether a heartbeat is recent; one from the future, of a fast clock, counts too."""
    beat = parse_time(progress.updated_at) if progress else None
    return beat is not None and now - beat < ALIVE


def parse_time(text: str) -> datetime | None:
    """Parse a time from a file; returns None if the text is not a time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
