"""Read the Kubernetes objects of one stage defensively.

Any field may be missing or malformed. The functions are pure and never raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuneloop.k8s.api import Object
from tuneloop.k8s.events import event_time


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
    """Events about the workload, its child Jobs, its pods and Kueue's Workload.

    Events about earlier child Jobs of the same name are among them.
    """
    record_published: bool
    """Whether the stage's record exists; if so, the stage has succeeded in any case."""
    now: datetime
    """Time on the server's clock."""
    seen: bool = True
    """Whether the workload existed before; if so, `workload` None means that it was deleted."""
    cancelled: bool = False
    """Whether `tuneloop cancel` deleted the workload."""
    child_jobs: Sequence[Object] = ()
    """Jobs of a JobSet; none for a Job, and none for a moment while a JobSet restarts."""
    earlier_pods: Sequence[Object] = ()
    """Failed pods of earlier looks that the server does not list any more."""
    queue_workload: Object | None = None
    """Kueue's Workload for the Job or JobSet; None if there is none."""
    local_queue: Object | None = None
    """Kueue's LocalQueue; None if it does not exist or was not read."""
    cluster_queue: Object | None = None
    """Kueue's ClusterQueue; None if it was not read, which needs a right on the whole cluster."""
    progress_at: datetime | None = None
    """Time of the stage's last heartbeat; None if there was none."""

    @property
    def is_gang(self) -> bool:
        """Whether all pods restart if one of them fails."""
        return mapping(self.workload).get("kind") == "JobSet"

    @property
    def title(self) -> str:
        """Kind and name of the workload."""
        return f"{text(mapping(self.workload).get('kind')) or 'Job'} {self.name}"

    @property
    def setting(self) -> str:
        """Path of the stage's machines in a run spec."""
        return f"execution.cluster.{self.stage}"

    @property
    def namespace(self) -> str:
        """Namespace of the workload; empty if it does not exist."""
        return text(metadata_of(self.workload).get("namespace"))

    @property
    def restarts(self) -> int:
        """Number of times that a JobSet has restarted all its pods."""
        return count(status_of(self.workload).get("restarts"))

    def expected_pods(self) -> int:
        """Return the number of pods that run at the same time, at least 1."""
        spec = mapping(mapping(self.workload).get("spec"))
        if not self.is_gang:
            return max(1, count(spec.get("parallelism")))
        found = 0
        for job in entries(spec.get("replicatedJobs")):
            template = mapping(mapping(job.get("template")).get("spec"))
            found += max(1, count(job.get("replicas"))) * max(1, count(template.get("parallelism")))
        return max(1, found)


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


def count(value: Any) -> int:
    """Return a non-negative whole number, or 0 if the value is something else."""
    return value if isinstance(value, int) and value > 0 else 0


def name_of(found: Object | None) -> str:
    """Return the name of an object; empty if it has none."""
    return text(metadata_of(found).get("name"))


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


def events_about(seen: Observation, reason: str, *uids: Any) -> list[Object]:
    """Return the events of one reason about these objects, oldest first."""
    found = [
        event
        for event in entries(list(seen.events))
        if event.get("reason") == reason
        and mapping(event.get("involvedObject")).get("uid") in [uid for uid in uids if uid]
    ]
    return sorted(found, key=event_time)


def newest_events(seen: Observation, limit: int = 5) -> tuple[str, ...]:
    """Return the newest events as lines of evidence, each with its object."""
    return tuple(describe_event(event) for event in entries(list(seen.events))[-limit:])


def describe_event(event: Object) -> str:
    """Return an event as one line."""
    about = mapping(event.get("involvedObject"))
    place = f"{text(about.get('kind'))} {text(about.get('name'))}".strip()
    where = f" about {place}" if place else ""
    return f"event {text(event.get('reason'))}{where}: {text(event.get('message'))}"
