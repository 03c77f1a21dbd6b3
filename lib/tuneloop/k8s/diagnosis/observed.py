"""What the API server shows of one stage, read without trust: every field may be missing or odd.

One rule: pure, and nothing here raises, whatever an object looks like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = dict[str, Any]

CASUALTIES = (134, 143)
"""Exit codes of processes that ended because a peer did, or because they were asked to."""
_SIGKILLED = 137


@dataclass(frozen=True)
class Observation:
    """All that is known of one stage on a cluster at one moment."""

    stage: str
    name: str
    """Of the Job or JobSet."""
    workload: Object | None
    """As the server shows it; None: it is not there."""
    pods: Sequence[Object]
    """Of the workload, past ones that are still listed included."""
    events: Sequence[Object]
    """About workload and pods."""
    record_published: bool
    """Success, whatever the Job says."""
    now: datetime
    """The server's clock."""
    seen: bool = True
    """The workload was there before: None means that it was deleted."""
    queue_workload: Object | None = None
    """Kueue's Workload of it."""
    progress_at: datetime | None = None
    """The stage's last heartbeat."""


@dataclass(frozen=True)
class PodFailure:
    """Why one pod ended badly."""

    pod: str
    reason: str
    """Such as OOMKilled, Error, Evicted, UnexpectedAdmissionError."""
    exit_code: int | None
    """Of the main container; None: it never ran."""
    message: str
    """The stage's own sentence, else the end of its log, else what the node says."""
    disruption: str
    """Reason of the DisruptionTarget condition; empty if there is none."""
    finished_at: str
    """RFC 3339, whole seconds of the node's clock."""
    index: str
    """Completion index; empty without one."""

    @property
    def is_casualty(self) -> bool:
        """Whether something else ended first."""
        return self.exit_code in CASUALTIES

    @property
    def is_out_of_memory(self) -> bool:
        """OOMKilled, the stage's own 71, or a SIGKILL that no eviction explains."""
        if self.reason == "OOMKilled" or self.exit_code == 71:
            return True
        return self.exit_code == _SIGKILLED and not self.disruption and self.reason != "Evicted"

    def __str__(self) -> str:
        """One line of evidence."""
        code = "" if self.exit_code is None else f" exit {self.exit_code}"
        disruption = f", {self.disruption}" if self.disruption else ""
        return f"pod {self.pod}: {self.reason or 'failed'}{code}{disruption}"


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; empty if it is none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """The value if it is text, in one line that can be printed."""
    if not isinstance(value, str):
        return ""
    return " ".join(value.encode("utf-8", "replace").decode().split())


def status_of(found: Object | None) -> dict[str, Any]:
    """Status of an object."""
    return mapping(mapping(found).get("status"))


def metadata_of(found: Object | None) -> dict[str, Any]:
    """Metadata of an object."""
    return mapping(mapping(found).get("metadata"))


def condition(found: Object | None, kind: str, status: str = "True") -> dict[str, Any] | None:
    """A condition of an object, if it stands so."""
    for each in entries(status_of(found).get("conditions")):
        if each.get("type") == kind and each.get("status") == status:
            return each
    return None


def seconds_since(value: Any, now: datetime) -> float:
    """Age of a timestamp; 0 if it is none."""
    try:
        return max(0.0, (now - datetime.fromisoformat(str(value))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def main_container(pod: Object) -> dict[str, Any]:
    """Status of the container that runs the stage; empty before there is one."""
    found = entries(status_of(pod).get("containerStatuses"))
    return next((each for each in found if each.get("name") == "main"), found[0] if found else {})


def waiting(pod: Object) -> tuple[str, str]:
    """Reason and message of the container that waits; init containers first."""
    status = status_of(pod)
    containers = [*entries(status.get("initContainerStatuses")), main_container(pod)]
    for each in containers:
        state = mapping(mapping(each.get("state")).get("waiting"))
        if state:
            return text(state.get("reason")), text(state.get("message"))
    return "", ""


def pod_failure(pod: Object) -> PodFailure | None:
    """Why a pod failed; None if it has not."""
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
    """What a termination message says: its `cause`, else its last lines as they are."""
    if not isinstance(message, str):
        return ""
    try:
        return text(json.loads(message)["cause"])
    except (ValueError, KeyError, TypeError, RecursionError):
        lines = [line for line in message.splitlines() if line.strip()]
        return text(lines[-1]) if lines else ""


def root_cause(pods: Sequence[Object]) -> PodFailure | None:
    """The pod failure that the others follow from; None if no pod has failed.

    The earliest that is no casualty; at the same second one with a message first, then out of
    memory, then a code of the exit table. If only casualties are left: one that was disrupted,
    else the earliest.
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
