"""Read the Kubernetes objects of one stage defensively.

Any field may be missing or malformed. The functions are pure and never raise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = dict[str, Any]

CASUALTIES = (134, 143)
"""Exit codes of processes that another process took down or that were asked to terminate."""
_SIGKILLED = 137


@dataclass(frozen=True)
class Observation:
    """The state of one stage in cluster and storage at one moment."""

    stage: str
    name: str
    """Name of the Job or JobSet."""
    workload: Object | None
    """The Job or JobSet; None if it does not exist."""
    pods: Sequence[Object]
    """Pods of the workload, including ended ones that the server still lists."""
    events: Sequence[Object]
    """Events about the workload and its pods."""
    record_published: bool
    """Whether the stage's record exists; if so, the stage has succeeded in any case."""
    now: datetime
    """Time on the server's clock."""
    seen: bool = True
    """Whether the workload existed before; if so, `workload` None means that it was deleted."""
    queue_workload: Object | None = None
    """Kueue's Workload for the Job or JobSet; None if there is none."""
    progress_at: datetime | None = None
    """Time of the stage's last heartbeat; None if there was none."""


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

    @property
    def is_casualty(self) -> bool:
        """Whether the exit code suggests that another process ended first."""
        return self.exit_code in CASUALTIES

    @property
    def is_out_of_memory(self) -> bool:
        """Whether memory ran out: OOMKilled, exit code 71, or a SIGKILL without an eviction."""
        if self.reason == "OOMKilled" or self.exit_code == 71:
            return True
        return self.exit_code == _SIGKILLED and not self.disruption and self.reason != "Evicted"

    def __str__(self) -> str:
        """Return the failure as one line of evidence."""
        code = "" if self.exit_code is None else f" exit {self.exit_code}"
        disruption = f", {self.disruption}" if self.disruption else ""
        return f"pod {self.pod}: {self.reason or 'failed'}{code}{disruption}"


def mapping(value: Any) -> dict[str, Any]:
    """Return the value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[dict[str, Any]]:
    """Return the mappings in a list, or an empty list if the value is not a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """Return text as one printable line, or empty text if the value is not text."""
    if not isinstance(value, str):
        return ""
    return " ".join(value.encode("utf-8", "replace").decode().split())


def status_of(found: Object | None) -> dict[str, Any]:
    """Return the status of an object; empty if it has none."""
    return mapping(mapping(found).get("status"))


def metadata_of(found: Object | None) -> dict[str, Any]:
    """Return the metadata of an object; empty if it has none."""
    return mapping(mapping(found).get("metadata"))


def condition(found: Object | None, kind: str, status: str = "True") -> dict[str, Any] | None:
    """Return the condition of this type if it has this status, else None."""
    for each in entries(status_of(found).get("conditions")):
        if each.get("type") == kind and each.get("status") == status:
            return each
    return None


def seconds_since(value: Any, now: datetime) -> float:
    """Return the age of a timestamp in seconds; 0 if it is not a valid timestamp."""
    try:
        return max(0.0, (now - datetime.fromisoformat(str(value))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


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
