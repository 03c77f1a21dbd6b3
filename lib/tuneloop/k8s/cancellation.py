"""Cancel a run on a cluster: delete its workloads in the foreground and wait until they are gone.

A workload that is deleted in the foreground exists until all its pods are gone. What keeps a pod is
therefore visible: a finalizer of another controller, a node that does not answer, or its grace
period.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tuneloop.artifacts.runs.cancellation import Cancellation, repeat_until_none_left
from tuneloop.artifacts.runs.submission import Submission, name_of
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.diagnosis.observed import mapping, metadata_of, text
from tuneloop.k8s.diagnosis.pods import foreign_finalizers, is_being_deleted, is_lost, node_of
from tuneloop.k8s.names import RUN

POLL_SECONDS = 1.0
"""Seconds between two looks at objects that are being deleted."""
_CASCADE = "foregroundDeletion"
"""Finalizer with which the API server keeps an object until those that it owns are gone."""


def delete_workloads(
    cluster: ClusterApi,
    run_id: str,
    workloads: Sequence[Object],
    wait_seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Cancellation:
    """Delete workloads in the foreground, in this order, and wait until they are gone.

    Args:
        cluster: the namespace of the run.
        run_id: run that must own a workload; those of other runs with the same stage are kept.
        workloads: rendered Jobs and JobSets, which may or may not exist.
        wait_seconds: maximum seconds to wait.
        sleep: waits between two looks.
    """
    deletion = _Deletion(cluster, run_id, workloads)
    left = repeat_until_none_left(deletion.advance, wait_seconds, POLL_SECONDS, sleep)
    return Cancellation(tuple(deletion.deleted), tuple(deletion.kept), tuple(left))


def workloads_of(submission: Submission, stage: str | None) -> list[Object]:
    """Return the workloads of a run, or of one stage, in the order in which to delete them.

    The submitter comes first, because it would report the deletion of a stage as a failure.
    """
    stages = [each.workload for each in submission.stages if stage in (None, each.name)]
    return stages if stage else [submission.submitter_job, *stages]


class _Deletion:
    """The deletion of the workloads of one run."""

    def __init__(self, cluster: ClusterApi, run_id: str, workloads: Sequence[Object]) -> None:
        self._cluster, self._run_id = cluster, run_id
        self._names = [(str(each["kind"]), name_of(each)) for each in workloads]
        self._uids: set[str] = set()
        self.deleted: list[str] = []
        self.kept: list[str] = []

    def advance(self) -> list[str]:
        """Delete what exists, and describe what still does and why.

        Each look deletes again: the submitter can create the next stage while it ends.
        """
        left = [
            (f"{kind} {name}", found)
            for kind, name in self._names
            if (found := self._delete(kind, name)) is not None
        ]
        if not left:
            return []
        of_run = self._cluster.find("Pod", f"{RUN}={self._run_id}")
        pods = [pod for pod in of_run if is_being_deleted(pod)]
        reasons = [_why_pod_remains(pod) for pod in pods]
        return [*reasons, *(_why_workload_remains(title, each, bool(pods)) for title, each in left)]

    def _delete(self, kind: str, name: str) -> Object | None:
        """Delete an object once; return it if it still exists."""
        found = self._cluster.get(kind, name)
        if found is None:
            return None
        title = f"{kind} {name}"
        owner = text(mapping(metadata_of(found).get("labels")).get(RUN))
        if owner and owner != self._run_id:
            if not any(kept.startswith(f"{title}:") for kept in self.kept):
                self.kept.append(f"{title}: belongs to run {owner}, which has the same stage")
            return None
        uid = found["metadata"]["uid"]
        if uid not in self._uids and self._cluster.delete(kind, name, uid=uid, foreground=True):
            self._uids.add(uid)
            if title not in self.deleted:
                self.deleted.append(title)
        return self._cluster.get(kind, name)


def _why_pod_remains(pod: Object) -> str:
    name = text(metadata_of(pod).get("name"))
    title = f"pod {name}{f' on node {node}' if (node := node_of(pod)) else ''}"
    if finalizers := foreign_finalizers(pod):
        return (
            f"{title}: finalizer {', '.join(finalizers)} keeps it; ask the owner of the finalizer,"
            " or remove it with `kubectl edit pod`"
        )
    if is_lost(pod):
        return (
            f"{title}: its node does not answer, so nobody can confirm that the pod has ended;"
            f" delete the node, or run `kubectl delete pod {name} --force` if the machine is off"
        )
    until = text(metadata_of(pod).get("deletionTimestamp"))
    return f"{title}: is still ending, its grace period ends at {until}; wait and cancel again"


def _why_workload_remains(title: str, found: Object, has_pods: bool) -> str:
    listed = metadata_of(found).get("finalizers")
    finalizers = [text(each) for each in listed] if isinstance(listed, list) else []
    if foreign := [each for each in finalizers if each != _CASCADE]:
        return (
            f"{title}: finalizer {', '.join(foreign)} keeps it; ask the owner of the finalizer, or"
            f" remove it with `kubectl edit {title.replace(' ', '/', 1)}`"
        )
    if has_pods:
        return f"{title}: waits until its pods are gone"
    return (
        f"{title}: waits for the cluster's garbage collector; check that kube-controller-manager"
        " runs, then cancel again"
    )
