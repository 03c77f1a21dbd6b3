"""Status of a run on one machine, from its files. Only reads."""

from __future__ import annotations

from datetime import datetime

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import read_verdict
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.history.stored import read_unfinished, stage_names
from tuneloop.runs.status import StageStatus


def local_status(artifacts: str, run_id: str, *, now: datetime) -> list[StageStatus] | None:
    """Return the status of every stage of a run that was not submitted to a cluster.

    Args:
        artifacts: artifacts URL of the run.
        run_id: id of the run.
        now: the current time, which tells a running stage from a stopped one.

    Returns:
        The stages in order; None if there is no such run.
    """
    manifest = read_run_manifest(artifacts, run_id)
    if manifest is None:
        return None
    names = [name for name in stage_names(manifest) if name in manifest.stages]
    return [_status(artifacts, run_id, name, now) for name in names]


def _status(artifacts: str, run_id: str, name: str, now: datetime) -> StageStatus:
    if records.find(artifacts, run_id, name) is not None:
        return StageStatus(name, "done")
    stage = read_unfinished(artifacts, run_id, name, now)
    if stage.state == "not started":
        return StageStatus(name, "to run", "no process has started it yet", "run the spec")
    beat = stage.progress
    step = f"{beat.step}/{beat.total}" if beat and beat.step is not None else ""
    if stage.state == "stopped":
        cause = "it reports no progress any more, and its process has left no result"
        fix = f"run the spec again to continue; `tuneloop logs {run_id} {name}` shows the log"
        return StageStatus(name, "stopped", cause, fix, step=step)
    if stage.state != "running":
        last = read_verdict(layout.stage_prefix(artifacts, run_id, name))
        if last is not None:
            return StageStatus(
                name, last.state, last.cause, last.fix, last.evidence, last.about, step
            )
    return StageStatus(
        name,
        stage.state,
        step=step,
        rate_per_second=beat.rate_per_second if beat else None,
        seconds_left=beat.seconds_left if beat else None,
        loss=beat.loss if beat else None,
    )
