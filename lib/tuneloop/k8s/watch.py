"""Manage one stage on a cluster: create its objects, diagnose it, keep evidence, delete it.

The cluster is read before the storage. A record that is published between the two reads is
therefore found, and an ended Job is not mistaken for one without output.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.progress import Progress, read_progress
from tuneloop.artifacts.submission import Submission, SubmittedStage, name_of
from tuneloop.artifacts.verdict import ArchivedVerdict, Verdict, write_verdict
from tuneloop.k8s import names
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.diagnosis.diagnose import diagnose
from tuneloop.k8s.diagnosis.observed import Observation
from tuneloop.stages import reuse
from tuneloop.storage import files, paths

LOG_LINES = 200
"""Number of log lines to keep for each failed pod."""
_ENDED = {"Complete", "Failed", "Completed"}
"""Conditions of an ended workload: `Complete` and `Failed` of Jobs, `Completed` of JobSets."""
_PODS_OF = {
    "Job": "batch.kubernetes.io/controller-uid={uid}",
    "JobSet": "jobset.sigs.k8s.io/jobset-uid={uid}",
}


class StageWatch:
    """One stage of a submitted run."""

    def __init__(
        self,
        cluster: ClusterApi,
        submission: Submission,
        stage: SubmittedStage,
        owner: dict[str, str] | None = None,
    ) -> None:
        """Store the arguments; no request is sent yet."""
        self.cluster, self.submission, self.stage = cluster, submission, stage
        self.progress: Progress | None = None
        self._progress_at: datetime | None = None
        self._owner = owner
        self._uid: str | None = None
        self._archived_pods: set[str] = set()
        self._seen: Observation | None = None

    @property
    def kind(self) -> str:
        """Kind of the stage's workload: Job or JobSet."""
        kind: str = self.stage.workload["kind"]
        return kind

    @property
    def name(self) -> str:
        """Name of the stage's objects."""
        return name_of(self.stage.workload)

    @property
    def prefix(self) -> str:
        """URL of the prefix that the stage writes below."""
        return layout.stage_prefix(
            self.submission.artifacts, self.submission.run_id, self.stage.name
        )

    def create(self, *, replace_failed: bool) -> None:
        """Create the stage's objects, or adopt existing ones with its fingerprint.

        Args:
            replace_failed: whether to delete a workload that has ended without a record, after
                saving its evidence, and to create a new one.
        """
        if replace_failed:
            self.remove_failed()
        self.cluster.apply(self.stage.config_map)
        created = self.cluster.create(_owned(self.stage.workload, self._owner)).object
        self._uid = created["metadata"]["uid"]
        # The workload becomes the owner of the ConfigMap, so that both are deleted together. This
        # needs a second request, because an owner must exist first.
        owner = {key: created[key] for key in ("apiVersion", "kind")}
        owner |= {"name": self.name, "uid": created["metadata"]["uid"]}
        self.cluster.apply(_owned(self.stage.config_map, owner))

    def remove_failed(self) -> None:
        """Delete a workload that has ended without a record, after saving its evidence."""
        verdict = self.look()
        seen = self._seen
        if seen and not seen.record_published and has_ended(seen.workload):
            self.archive_logs()
            self.archive(verdict)
            self._delete()
            self._uid = None

    def exists(self) -> bool:
        """Return whether the stage's workload is on the cluster."""
        return self.cluster.get(self.kind, self.name) is not None

    def look(self) -> Verdict:
        """Return the verdict on the current state of cluster and storage, without changing it."""
        workload = self.cluster.get(self.kind, self.name)
        if workload is not None:
            self._uid = workload["metadata"]["uid"]
        pods = self._pods()
        is_running = any(pod.get("status", {}).get("phase") == "Running" for pod in pods)
        # Events explain why a stage does not run. They are listed only then, because their list is
        # the largest.
        events = [] if is_running else self._events(pods)
        if is_running:
            self._take_progress()
        self._seen = Observation(
            stage=self.stage.name,
            name=self.name,
            workload=workload,
            pods=pods,
            events=events,
            record_published=self._has_record(),
            now=self.cluster.now(),
            seen=self._uid is not None,
            queue_workload=self._queue_workload(workload),
            progress_at=self._progress_at if is_running else None,
        )
        return diagnose(self._seen, self.submission.timeouts)

    def _has_record(self) -> bool:
        """Return whether this run or another run with the same stage has published a record."""
        found = reuse.find_finished(
            self.submission.artifacts,
            self.submission.run_id,
            self.stage.name,
            self.stage.fingerprint,
        )
        return found is not None

    def _take_progress(self) -> None:
        """Read the heartbeat and note when it changed, on the server's clock and not the node's."""
        found = read_progress(self.prefix)
        if found != self.progress:
            self.progress, self._progress_at = found, self.cluster.now()

    def free(self) -> None:
        """Delete the workload unless it has ended; an ended one is kept as evidence."""
        workload = self.cluster.get(self.kind, self.name)
        if workload is not None and not has_ended(workload):
            self._uid = workload["metadata"]["uid"]
            self._delete()

    def archive(self, verdict: Verdict) -> None:
        """Write verdict and evidence next to the stage's records, which outlive the Job's TTL."""
        seen = self._seen
        archived = ArchivedVerdict(
            state=verdict.state,
            cause=verdict.cause,
            fix=verdict.fix,
            evidence=verdict.evidence,
            exit_code=verdict.exit_code,
            at=seen.now.isoformat(timespec="seconds") if seen else None,
            workload=seen.workload if seen else None,
            pods=list(seen.pods) if seen else [],
            events=list(seen.events) if seen else [],
        )
        write_verdict(archived, self.prefix)

    def archive_logs(self) -> None:
        """Save the log of each failed pod of the last look, because a restart may delete it."""
        for pod in self._seen.pods if self._seen else ():
            name = pod["metadata"]["name"]
            if pod.get("status", {}).get("phase") != "Failed" or name in self._archived_pods:
                continue
            self._archived_pods.add(name)
            log = self.cluster.pod_log(name, tail_lines=LOG_LINES)
            if log is not None:
                files.write(paths.join(self.prefix, "pods", f"{name}.log"), log)

    def logs(self) -> bytes:
        """Return the concatenated logs of the stage's pods that the kubelets still have."""
        workload = self.cluster.get(self.kind, self.name)
        if workload is not None:
            self._uid = workload["metadata"]["uid"]
        found = (self.cluster.pod_log(pod["metadata"]["name"]) for pod in self._pods())
        return b"".join(log for log in found if log is not None)

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


def has_ended(workload: dict[str, Any] | None) -> bool:
    """Return whether a Job or JobSet has ended, successfully or not."""
    conditions = (workload or {}).get("status", {}).get("conditions", [])
    return any(c.get("type") in _ENDED and c.get("status") == "True" for c in conditions)


def _owned(document: dict[str, Any], owner: dict[str, str] | None) -> dict[str, Any]:
    if owner is None:
        return document
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}
