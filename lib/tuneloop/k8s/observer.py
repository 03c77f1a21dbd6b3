"""Read everything that the diagnosis of one stage needs from the cluster and the storage.

The cluster is read before the storage. A record that is published between the two reads is
therefore found, and an ended Job is not mistaken for one without output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import read_verdict
from tuneloop.artifacts.progress import Progress, read_progress
from tuneloop.artifacts.runs.submission import Submission, SubmittedStage, name_of
from tuneloop.errors import PermissionDenied
from tuneloop.k8s import names
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.diagnosis.observed import Observation, condition, mapping, metadata_of, text
from tuneloop.k8s.diagnosis.pods import is_lost, running_pods
from tuneloop.stages.lifecycle import reuse

_PODS_OF = {
    "Job": "batch.kubernetes.io/controller-uid={uid}",
    "JobSet": "jobset.sigs.k8s.io/jobset-uid={uid}",
}
_CHILD_JOBS = "jobset.sigs.k8s.io/jobset-uid={uid}"
KEPT_PODS = 64
"""Maximum number of failed pods of earlier attempts to remember."""


class StageObserver:
    """Reads one stage; remembers its uid, its heartbeat and failed pods that are gone."""

    def __init__(self, cluster: ClusterApi, submission: Submission, stage: SubmittedStage) -> None:
        """Store the arguments; no request is sent yet."""
        self.cluster, self.submission, self.stage = cluster, submission, stage
        self.uid: str | None = None
        """Uid of the workload; None if it was never seen."""
        self.progress: Progress | None = None
        """The last heartbeat."""
        self._progress_at: datetime | None = None
        self._failed: dict[str, Object] = {}
        self._may_read_cluster_queues = True

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

    def workload(self) -> Object | None:
        """Read the workload and remember its uid; None if it does not exist."""
        found = self.cluster.get(self.kind, self.name)
        if found is not None:
            self.uid = found["metadata"]["uid"]
        return found

    def pods(self) -> list[Object]:
        """Read the pods of the workload that was seen last."""
        if self.uid is None:
            return []
        return self.cluster.find("Pod", _PODS_OF[self.kind].format(uid=self.uid))

    def observe(self) -> Observation:
        """Read the current state."""
        workload = self.workload()
        pods = self.pods()
        earlier = self._remember(pods)
        seen = Observation(
            stage=self.stage.name,
            name=self.name,
            workload=workload,
            pods=pods,
            events=(),
            record_published=False,
            now=self.cluster.now(),
            seen=self.uid is not None,
        )
        running = running_pods(seen)
        all_run = len(running) >= seen.expected_pods() and not any(map(is_lost, running))
        if running:
            self._take_progress()
        # Child Jobs and events explain why pods do not run. They are read only then, because the
        # list of events is the largest.
        jobs = self._child_jobs() if workload is not None and not all_run else []
        admission = self._queue_workload(workload)
        queues = self._queues(admission)
        return replace(
            seen,
            events=() if all_run else self._events(pods, jobs, admission),
            record_published=self._has_record(),
            now=self.cluster.now(),
            cancelled=_is_gone(workload) and self._was_cancelled(),
            child_jobs=jobs,
            earlier_pods=earlier,
            queue_workload=admission,
            local_queue=queues[0],
            cluster_queue=queues[1],
            progress_at=self._progress_at if running else None,
        )

    def _remember(self, pods: Sequence[Object]) -> list[Object]:
        """Remember the failed pods; return those that are gone."""
        listed = {pod["metadata"]["uid"] for pod in pods}
        for pod in pods:
            if mapping(pod.get("status")).get("phase") == "Failed":
                self._failed[pod["metadata"]["uid"]] = pod
        while len(self._failed) > KEPT_PODS:
            del self._failed[next(iter(self._failed))]
        return [pod for uid, pod in self._failed.items() if uid not in listed]

    def _take_progress(self) -> None:
        """Read the heartbeat and note when it changed, on the server's clock and not the node's."""
        found = read_progress(self.prefix)
        if found != self.progress:
            self.progress, self._progress_at = found, self.cluster.now()

    def _has_record(self) -> bool:
        """Return whether this run or another run with the same stage has published a record."""
        found = reuse.find_finished(
            self.submission.artifacts,
            self.submission.run_id,
            self.stage.name,
            self.stage.fingerprint,
        )
        return found is not None

    def _was_cancelled(self) -> bool:
        """Return whether `cancel` has noted that it deletes the workload that was seen last."""
        found = read_verdict(self.prefix)
        if found is None or found.state != "Cancelled":
            return False
        return self.uid is not None and metadata_of(found.workload).get("uid") == self.uid

    def _child_jobs(self) -> list[Object]:
        if self.kind != "JobSet" or self.uid is None:
            return []
        return self.cluster.find("Job", _CHILD_JOBS.format(uid=self.uid))

    def _events(
        self, pods: Sequence[Object], jobs: Sequence[Object], admission: Object | None
    ) -> list[Object]:
        """Read the events about the stage's objects, and about earlier child Jobs by their name."""
        if self.uid is None:
            return []
        objects = [*pods, *jobs, *([admission] if admission else [])]
        uids = {found["metadata"]["uid"] for found in objects} | {self.uid}
        if self.kind == "Job":
            return self.cluster.events(uids)
        first = f"{self.name}-{names.REPLICATED_JOB}-0"
        return self.cluster.events(uids, {first, *(job["metadata"]["name"] for job in jobs)})

    def _queue_workload(self, workload: Object | None) -> Object | None:
        labels = self.stage.workload["metadata"].get("labels", {})
        if workload is None or names.QUEUE not in labels:
            return None
        for found in self.cluster.find("Workload"):
            owners = found["metadata"].get("ownerReferences", [])
            if any(owner.get("uid") == self.uid for owner in owners):
                return found
        return None

    def _queues(self, admission: Object | None) -> tuple[Object | None, Object | None]:
        """Read the queues of a workload whose queue is inactive; only they say why it is."""
        refused = condition(admission, "QuotaReserved", "False") or {}
        if "is inactive" not in text(refused.get("message")):
            return None, None
        queue = self.stage.workload["metadata"]["labels"][names.QUEUE]
        local = self.cluster.get("LocalQueue", queue)
        name = text(mapping(mapping(local).get("spec")).get("clusterQueue"))
        if not name or not self._may_read_cluster_queues:
            return local, None
        try:
            return local, self.cluster.get("ClusterQueue", name)
        except PermissionDenied:  # the Role of the base ends at its namespace
            self._may_read_cluster_queues = False
            return local, None


def _is_gone(workload: Object | None) -> bool:
    """Return whether a workload does not exist or is being deleted in the foreground."""
    return workload is None or bool(metadata_of(workload).get("deletionTimestamp"))
