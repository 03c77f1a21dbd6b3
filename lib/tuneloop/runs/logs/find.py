"""Find the log of a stage of a submitted or local run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.artifacts.runs.submission import load_submission
from tuneloop.artifacts.stage_logs.live import LiveLogs
from tuneloop.errors import InputMissing, TuneloopError, UsageError
from tuneloop.runs.logs.follow import StageLog
from tuneloop.stages.pipelines import ordered
from tuneloop.storage import files


class LogBackend(Protocol):
    """The part of a cluster's backend that reading logs needs."""

    def exists(self, stage: str) -> bool:
        """Return whether the cluster has the stage's workload."""

    def live_logs(self, stage: str) -> LiveLogs:
        """Return the logs of the stage's pods."""


def find_log(
    artifacts: str,
    run_id: str,
    stage: str | None,
    backend: Callable[[], LogBackend],
    *,
    rank: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> StageLog:
    """Return the log of a stage.

    Args:
        artifacts: artifacts URL of the run.
        run_id: id of the run.
        stage: name of the stage; None means the latest one with a log.
        backend: opens the cluster of a submitted run; called only for a stage without a record.
        rank: rank of the only process to read; None reads all.
        warn: called with a sentence if the cluster cannot be asked.

    Raises:
        UsageError: there is no such run or stage.
        InputMissing: nothing has been logged yet.
    """
    known, is_submitted = _stages(artifacts, run_id)
    if stage is not None and stage not in known:
        raise UsageError(f"stage {stage}: unknown, expected one of {', '.join(known)}")

    def has_record(name: str) -> bool:
        return files.exists(layout.record_url(artifacts, run_id, name))

    current = next((name for name in known if not has_record(name)), None)
    for name in reversed(known) if stage is None else (stage,):
        live = None
        if is_submitted and name == current:
            live = _live_logs(name, backend, warn)
        log = StageLog(artifacts, run_id, name, live, rank=rank)
        if live is not None or log.exists():
            return log
    who = stage or "any stage"
    of_rank = "" if rank is None else f" with rank {rank}"
    raise InputMissing(
        f"run {run_id}: no log of {who}{of_rank} yet; `tuneloop status {run_id}` shows why"
    )


def _stages(artifacts: str, run_id: str) -> tuple[list[str], bool]:
    """Return the names of a run's stages in order, and whether it was submitted to a cluster."""
    try:
        submission = load_submission(artifacts, run_id)
    except UsageError:
        manifest = read_run_manifest(artifacts, run_id)
        if manifest is None:
            url = layout.run_prefix(artifacts, run_id)
            raise UsageError(
                f"{url}: no such run, expected its manifest; check the run id and --artifacts"
            ) from None
        return ordered(manifest.stages), False
    return [submitted.name for submitted in submission.stages], True


def _live_logs(
    stage: str, backend: Callable[[], LogBackend], warn: Callable[[str], None]
) -> LiveLogs | None:
    """Return the logs of a stage that is on the cluster; None if it is not, or cannot be asked."""
    try:
        opened = backend()
        return opened.live_logs(stage) if opened.exists(stage) else None
    except (TuneloopError, ModuleNotFoundError) as e:
        warn(f"only archived logs are shown, because the cluster cannot be asked: {e}")
        return None
