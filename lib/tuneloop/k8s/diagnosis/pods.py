"""Read the pods of one stage: what they wait for, why they failed, which failure came first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.k8s.api import Object
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    entries,
    mapping,
    metadata_of,
    name_of,
    seconds_since,
    status_of,
    text,
)

CASUALTIES = (134, 143)
"""Exit codes of processes that another process took down or that were asked to terminate."""
TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"
"""Finalizer with which the Job controller keeps a pod until it has counted it."""
_SIGKILLED = 137


@dataclass(frozen=True)
class PodFailure:
    """Why one pod failed."""

    pod: str
    reason: str
    """Reason of the pod or container, such as OOMKilled, Error or UnexpectedAdmissionError."""
    exit_code: int | None
    """Exit code of the main container; None if it never ran."""
    message: str
    """The stage's own error message, else the end of its log, else the message of the node."""
    disruption: str
    """Reason of the DisruptionTarget condition; empty if there is none."""
    finished_at: str
    """End of the main container in RFC 3339, in whole seconds of the node's clock."""
    index: str
    """Completion index; empty if the pod has none."""
    node: str
    """Node of the pod; empty if it had none."""

    @property
    def is_casualty(self) -> bool:
        """Whether the exit code suggests that another process ended first."""
        return self.exit_code in CASUALTIES

    @property
    def is_out_of_memory(self) -> bool:
        """Whether memory ran out: OOMKilled, exit code 71, or a SIGKILL without an eviction."""
        if self.reason == "OOMKilled" or self.exit_code == 71:
            return True
        # A node that restarted reports 137 for containers that it does not know any more.
        reasons = ("Evicted", "ContainerStatusUnknown")
        return self.exit_code == _SIGKILLED and not self.disruption and self.reason not in reasons

    def __str__(self) -> str:
        """Return the failure as one line of evidence."""
        code = "" if self.exit_code is None else f" exit {self.exit_code}"
        disruption = f", {self.disruption}" if self.disruption else ""
        node = f" on node {self.node}" if self.node else ""
        return f"pod {self.pod}{node}: {self.reason or 'failed'}{code}{disruption}"


def main_container(pod: Object) -> dict[str, Any]:
    """Return the status of the container that runs the stage; empty if there is none yet."""
    found = entries(status_of(pod).get("containerStatuses"))
    return next((each for each in found if each.get("name") == "main"), found[0] if found else {})


def waiting(pod: Object) -> tuple[str, str]:
    """Return reason and message of the first waiting container; init containers come first."""
    status = status_of(pod)
    containers = [*entries(status.get("initContainerStatuses")), main_container(pod)]
    for each in containers:
        state = mapping(mapping(each.get("state")).get("waiting"))
        if state:
            return text(state.get("reason")), text(state.get("message"))
    return "", ""


def pod_failure(pod: Object) -> PodFailure | None:
    """Return why a pod failed, or None if it has not failed."""
    status = status_of(pod)
    if status.get("phase") != "Failed":
        return None
    ended = mapping(mapping(main_container(pod).get("state")).get("terminated"))
    code = ended.get("exitCode")
    disruption = condition(pod, "DisruptionTarget") or {}
    labels = mapping(metadata_of(pod).get("annotations"))
    return PodFailure(
        pod=text(metadata_of(pod).get("name")),
        reason=text(status.get("reason")) or text(ended.get("reason")),
        exit_code=code if isinstance(code, int) else None,
        message=sentence(ended.get("message")) or text(status.get("message")),
        disruption=text(disruption.get("reason")),
        finished_at=text(ended.get("finishedAt")),
        index=text(labels.get("batch.kubernetes.io/job-completion-index")),
        node=node_of(pod),
    )


def sentence(message: Any) -> str:
    """Return the `cause` in a termination message, or its last line if it is not JSON."""
    if not isinstance(message, str):
        return ""
    try:
        return text(json.loads(message)["cause"])
    except (ValueError, KeyError, TypeError, RecursionError):
        lines = [line for line in message.splitlines() if line.strip()]
        return text(lines[-1]) if lines else ""


def root_cause(pods: Sequence[Object]) -> PodFailure | None:
    """Return the pod failure that most likely caused the others, or None if no pod has failed.

    The root cause is the earliest failure that is not a casualty. Among failures of the same
    second, one with a message comes first, then one that is out of memory, then one with an exit
    code of the table (65 to 78). If all failures are casualties, the root cause is one with a
    disruption, else the earliest.
    """
    found = [failure for pod in pods if (failure := pod_failure(mapping(pod)))]

    def rank(failure: PodFailure) -> tuple[bool, bool, str, bool, bool, bool]:
        return (
            failure.is_casualty,
            failure.is_casualty and not failure.disruption,
            failure.finished_at,
            not failure.message,
            not failure.is_out_of_memory,
            not 65 <= (failure.exit_code or 0) <= 78,
        )

    return min(found, key=rank, default=None)


def node_of(pod: Object) -> str:
    """Return the name of the node that a pod is bound to; empty if there is none."""
    return text(mapping(mapping(pod).get("spec")).get("nodeName"))


def live_pods(seen: Observation) -> list[Object]:
    """Return the pods that have not ended."""
    return [
        pod
        for pod in entries(list(seen.pods))
        if status_of(pod).get("phase") not in ("Failed", "Succeeded")
    ]


def running_pods(seen: Observation) -> list[Object]:
    """Return the pods in phase Running; a pod on a lost node is one of them."""
    return [pod for pod in live_pods(seen) if status_of(pod).get("phase") == "Running"]


def failures_of(pods: Sequence[Object]) -> list[PodFailure]:
    """Return the failures of all failed pods, in the order of the pods."""
    return [failure for pod in entries(list(pods)) if (failure := pod_failure(pod))]


def last_failure(seen: Observation) -> str:
    """Return `; last failure: ...` for the pod that ended last, or empty text."""
    found = failures_of(seen.pods)
    if not found:
        return ""
    last = max(found, key=lambda failure: failure.finished_at)
    said = f": {last.message}" if last.message else ""
    return f"; last failure: {last}{said}"


def is_lost(pod: Object) -> bool:
    """Return whether the node of a running pod does not answer any more.

    The node controller sets the pod's Ready to False after 40 to 50 seconds without a heartbeat of
    the node. The container's own status, which only the node could change, still says ready.
    """
    status = status_of(pod)
    main = main_container(pod)
    if status.get("phase") != "Running" or "running" not in mapping(main.get("state")):
        return False
    disruption = condition(pod, "DisruptionTarget") or {}
    if disruption.get("reason") == "DeletionByTaintManager":
        return True
    return main.get("ready") is True and condition(pod, "Ready", "False") is not None


def is_being_deleted(pod: Object) -> bool:
    """Return whether someone has asked for the deletion of a pod."""
    return bool(metadata_of(pod).get("deletionTimestamp"))


def seconds_overdue(pod: Object, seen: Observation) -> float:
    """Return for how many seconds a deleted pod has existed beyond its grace period."""
    return seconds_since(metadata_of(pod).get("deletionTimestamp"), seen.now)


def foreign_finalizers(pod: Object) -> list[str]:
    """Return the finalizers that keep a pod, without that of the Job controller."""
    found = metadata_of(pod).get("finalizers")
    named = [text(each) for each in found] if isinstance(found, list) else []
    return [each for each in named if each and each != TRACKING_FINALIZER]


def pod_titles(pods: Sequence[Object]) -> str:
    """Return the pods with their nodes, for a cause."""
    return ", ".join(
        f"pod {name_of(pod)}{f' on node {node}' if (node := node_of(pod)) else ''}" for pod in pods
    )
