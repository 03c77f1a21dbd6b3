"""One stage on a cluster: create its objects, look at it, keep the evidence, free what it holds.

One rule: the cluster is looked at before the storage, so that a record published in between is
seen, and an ended Job is never taken for one without output too early.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.submission import Submission, SubmittedStage, name_of
from tuneloop.k8s import names
from tuneloop.k8s.diagnosis.diagnose import Observation, Verdict, diagnose
from tuneloop.runs.results import read_progress
from tuneloop.stages import reuse
from tuneloop.storage import files, paths

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

LOG_LINES = 200
"""Kept of the log of each pod that failed."""
_ENDED = {"Complete", "Failed", "Completed"}
"""Conditions of a Job (the first two) and of a JobSet that has come to its end."""
_PODS_OF = {
    "Job": "batch.kubernetes.io/controller-uid={uid}",
    "JobSet": "jobset.sigs.k8s.io/jobset-uid={uid}",
}


class StageWatch:
    """One stage of a submitted run."""

    def __init__(
        self,
        cluster: Cluster,
        submission: Submission,
        stage: SubmittedStage,
        owner: dict[str, str] | None = None,
    ) -> None:
        """Nothing is asked or created yet."""
        self.cluster, self.submission, self.stage = cluster, submission, stage
        self.record: Record | None = None
        self.progress: dict[str, Any] = {}
        self._progress_at: datetime | None = None
        self._owner = owner
        self._uid: str | None = None
        self._archived_pods: set[str] = set()
        self._seen: Observation | None = None

    @property
    def kind(self) -> str:
        """Job or JobSet."""
        kind: str = self.stage.workload["kind"]
        return kind

    @property
    def name(self) -> str:
        """Name of the stage's objects."""
        return name_of(self.stage.workload)

    @property
    def prefix(self) -> str:
        """Where the stage writes."""
        return layout.stage_prefix(
            self.submission.artifacts, self.submission.run_id, self.stage.name
        )

    def create(self, *, replace_failed: bool) -> None:
        """Create the stage's objects, or adopt those that are there with its fingerprint.

        Args:
            replace_failed: whether a workload that has ended without a record makes room for a new
                one; its evidence is kept.
        """
        if replace_failed:
            self.remove_failed()
        self.cluster.apply(self.stage.config_map)
        created = self.cluster.create(_owned(self.stage.workload, self._owner)).object
        self._uid = created["metadata"]["uid"]
        # The stage's spec goes when its workload goes. Only now: an owner has to be there first.
        owner = {key: created[key] for key in ("apiVersion", "kind")}
        owner |= {"name": self.name, "uid": created["metadata"]["uid"]}
        self.cluster.apply(_owned(self.stage.config_map, owner))

    def remove_failed(self) -> None:
        """Delete a workload that has ended without a record; its evidence is kept."""
        verdict = self.look()
        if self.record is None and self._seen and has_ended(self._seen.workload):
            self.archive(verdict)
            self._delete()
            self._uid = None

    def look(self) -> Verdict:
        """Judge the stage by what cluster and storage show now; sets `record` and `progress`."""
        workload = self.cluster.get(self.kind, self.name)
        if workload is not None:
            self._uid = workload["metadata"]["uid"]
        pods = self._pods()
        is_running = any(pod.get("status", {}).get("phase") == "Running" for pod in pods)
        # Events say why something does not run; asked for only then, they are the largest list.
        events = [] if is_running else self._events(pods)
        if is_running:
            self._take_progress()
        # Another run that shares this stage may be the one whose spec its pods work on.
        self.record = reuse.find_or_adopt(
            self.submission.artifacts,
            self.submission.run_id,
            self.stage.name,
            self.stage.fingerprint,
        )
        self._seen = Observation(
            stage=self.stage.name,
            name=self.name,
            workload=workload,
            pods=pods,
            events=events,
            record_published=self.record is not None,
            now=self.cluster.now(),
            seen=self._uid is not None,
            queue_workload=self._queue_workload(workload),
            progress_at=self._progress_at if is_running else None,
        )
        self._archive_pods(pods)
        return diagnose(self._seen, self.submission.graces)

    def _take_progress(self) -> None:
        """Read the heartbeat: as old as its last change seen here, whatever a node's clock says."""
        found = read_progress(self.prefix)
        if found != self.progress:
            self.progress, self._progress_at = found, self.cluster.now()

    def free(self) -> None:
        """Delete the workload unless it has ended: what has ended holds nothing and is evidence."""
        workload = self.cluster.get(self.kind, self.name)
        if workload is not None and not has_ended(workload):
            self._uid = workload["metadata"]["uid"]
            self._delete()

    def archive(self, verdict: Verdict) -> None:
        """Keep verdict and evidence beside the stage's records, where TTLs do not reach."""
        seen = self._seen
        value = {
            "state": verdict.state,
            "cause": verdict.cause,
            "fix": verdict.fix,
            "evidence": list(verdict.evidence),
            "exit_code": verdict.exit_code,
            "at": seen.now.isoformat(timespec="seconds") if seen else None,
            "workload": seen.workload if seen else None,
            "pods": list(seen.pods) if seen else [],
            "events": list(seen.events) if seen else [],
        }
        files.write(verdict_url(self.prefix), json.dumps(value, indent=1).encode() + b"\n")

    def _delete(self) -> None:
        if self._uid is not None:
            self.cluster.delete(self.kind, self.name, uid=self._uid)

    def _pods(self) -> list[dict[str, Any]]:
        if self._uid is None:
            return []
        return self.cluster.find("Pod", _PODS_OF[self.kind].format(uid=self._uid))

    def _events(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        uids = {pod["metadata"]["uid"] for pod in pods}
        return self.cluster.events(uids | {self._uid}) if self._uid is not None else []

    def _queue_workload(self, workload: dict[str, Any] | None) -> dict[str, Any] | None:
        labels = self.stage.workload["metadata"].get("labels", {})
        if workload is None or names.QUEUE not in labels:
            return None
        for found in self.cluster.find("Workload"):
            owners = found["metadata"].get("ownerReferences", [])
            if any(owner.get("uid") == self._uid for owner in owners):
                return found
        return None

    def _archive_pods(self, pods: list[dict[str, Any]]) -> None:
        """Keep the log of each pod that failed: the next restart may take the pod away."""
        for pod in pods:
            name = pod["metadata"]["name"]
            if pod.get("status", {}).get("phase") != "Failed" or name in self._archived_pods:
                continue
            self._archived_pods.add(name)
            log = self.cluster.pod_log(name, tail_lines=LOG_LINES)
            if log is not None:
                files.write(paths.join(self.prefix, "pods", f"{name}.log"), log)


def verdict_url(stage_prefix: str) -> str:
    """Where the last verdict on a stage lies that was a failure."""
    return paths.join(stage_prefix, "verdict.json")


def has_ended(workload: dict[str, Any] | None) -> bool:
    """Whether a Job or JobSet has come to its end, good or bad."""
    conditions = (workload or {}).get("status", {}).get("conditions", [])
    return any(c.get("type") in _ENDED and c.get("status") == "True" for c in conditions)


def _owned(document: dict[str, Any], owner: dict[str, str] | None) -> dict[str, Any]:
    if owner is None:
        return document
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}
