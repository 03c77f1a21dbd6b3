"""usage.json: when the pods of a stage held their machines, as its supervisors saw it.

Times are those that Kubernetes reports. A pod that is deleted while nobody supervises the run
counts until it was last seen.
"""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from tuneloop.artifacts.reading import read_model
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import Sealed, sealed


class PodUse(BaseModel):
    """One pod."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    workload: str
    """Uid of the Job or JobSet."""
    scheduled_at: datetime | None = None
    """When it was given a node; null while it waits for one."""
    ended_at: datetime | None = None
    """When its container ended; null while it runs, or if nobody saw the end."""
    seen_at: datetime
    """When it was last seen."""
    failed: bool = False
    """Whether it ended without success."""

    @property
    def held_seconds(self) -> float:
        """Seconds on a node, until it was last seen."""
        if self.scheduled_at is None:
            return 0.0
        return max(0.0, ((self.ended_at or self.seen_at) - self.scheduled_at).total_seconds())


class StageHeld(Sealed, BaseModel):
    """The pods of one stage, of all its attempts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    accelerator: str
    """Machine shape, such as `cpu` or `v5e-4x4`."""
    spot: bool
    """Whether the machines are Spot machines."""
    chips_per_pod: int
    """Chips of one pod; 0 on CPU."""
    workloads: dict[str, datetime] = {}
    """Uid of each Job or JobSet -> its creation."""
    pods: dict[str, PodUse] = {}
    """Uid -> pod."""

    @property
    def held_pod_seconds(self) -> float:
        """Seconds of all pods together."""
        return sum(pod.held_seconds for pod in self.pods.values())

    @property
    def is_open(self) -> bool:
        """Whether the end of a pod is not known."""
        return any(pod.ended_at is None for pod in self.pods.values())

    @property
    def failed_pod_seconds(self) -> float:
        """Seconds of the pods that ended without success."""
        return sum(pod.held_seconds for pod in self.pods.values() if pod.failed)

    @property
    def queue_seconds(self) -> float:
        """Seconds from the creation of each workload until its first pod had a node."""
        total = 0.0
        for uid, created in self.workloads.items():
            starts = [
                pod.scheduled_at
                for pod in self.pods.values()
                if pod.workload == uid and pod.scheduled_at is not None
            ]
            if starts:
                total += max(0.0, (min(starts) - created).total_seconds())
        return total


def usage_url(stage_prefix: str) -> str:
    """Return the URL of the usage of a stage."""
    return paths.join(stage_prefix, "usage.json")


def read_held(stage_prefix: str) -> StageHeld | None:
    """Read the usage of a stage; None if no supervisor on a cluster has written it.

    Raises:
        DataError: the file is torn or not a usage.
    """
    return read_model(StageHeld, usage_url(stage_prefix))


def write_held(held: StageHeld, stage_prefix: str) -> None:
    """Write the usage of a stage, replacing an earlier one."""
    value = sealed(held.model_dump(mode="json"))
    files.write(usage_url(stage_prefix), json.dumps(value, indent=1).encode() + b"\n")
