"""What a submitted run is at: state from records first, from the cluster where there is none.

One rule: only reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneloop.artifacts import records
from tuneloop.artifacts.submission import Submission, SubmittedStage, name_of
from tuneloop.k8s.watch import StageWatch, verdict_url
from tuneloop.storage import files

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster


@dataclass(frozen=True)
class StageStatus:
    """One stage, now."""

    name: str
    state: str
    """done, to run, or a verdict's state."""
    cause: str = ""
    fix: str = ""
    evidence: tuple[str, ...] = ()
    step: str = ""
    """How far it is, such as 12/50; empty where it has not said so."""


def run_status(submission: Submission, connect: Callable[[], Cluster]) -> list[StageStatus]:
    """State of every stage.

    Args:
        submission: the run.
        connect: called once, and only if a stage has no record.
    """
    cluster: Cluster | None = None
    found = []
    for stage in submission.stages:
        if records.find(submission.artifacts, submission.run_id, stage.name) is not None:
            found.append(StageStatus(stage.name, "done"))
            continue
        cluster = cluster or connect()
        found.append(_status(cluster, submission, stage))
    return found


def _status(cluster: Cluster, submission: Submission, stage: SubmittedStage) -> StageStatus:
    watch = StageWatch(cluster, submission, stage)
    if cluster.get(watch.kind, watch.name) is None:
        return _last_verdict(watch) or StageStatus(stage.name, "to run")
    verdict = watch.look()
    progress = watch.progress
    step = f"{progress['step']}/{progress['total']}" if "step" in progress else ""
    return StageStatus(
        stage.name, verdict.state, verdict.cause, verdict.fix, verdict.evidence, step
    )


def _last_verdict(watch: StageWatch) -> StageStatus | None:
    """Read the verdict that a supervisor left when it gave the stage up."""
    try:
        value = json.loads(files.read(verdict_url(watch.prefix)))
    except FileNotFoundError:
        return None
    return StageStatus(
        watch.stage.name, value["state"], value["cause"], value["fix"], tuple(value["evidence"])
    )


def cancel_run(submission: Submission, cluster: Cluster) -> list[str]:
    """Delete what the run has in the cluster; records and checkpoints stay.

    The submitter goes first: it would otherwise take the deletion for somebody else's.

    Returns:
        Kind and name of what was deleted.
    """
    workloads = [submission.submitter_job, *(stage.workload for stage in submission.stages)]
    deleted = []
    for workload in workloads:
        kind, name = str(workload["kind"]), name_of(workload)
        standing = cluster.get(kind, name)
        if standing and cluster.delete(kind, name, uid=standing["metadata"]["uid"]):
            deleted.append(f"{kind} {name}")
    return deleted
