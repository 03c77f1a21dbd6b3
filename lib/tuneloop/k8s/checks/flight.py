"""What `check --server` checks: the objects that are going to be created, and for which cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.k8s.names import QUEUE
from tuneloop.specs.cluster import ClusterSpec

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

Object = dict[str, Any]


@dataclass(frozen=True)
class Preflight:
    """The objects that are going to be created, and the cluster and spec that they are for."""

    cluster: Cluster
    objects: list[tuple[str, Object]]
    """(file name, object) in the order in which they are created."""
    spec: ClusterSpec
    artifacts: str

    @property
    def workloads(self) -> list[Object]:
        """The Jobs and JobSets among the objects."""
        return [found for _, found in self.objects if found["kind"] in ("Job", "JobSet")]

    @property
    def queues(self) -> list[str]:
        """The LocalQueues that the workloads name, sorted."""
        labels = (found["metadata"]["labels"].get(QUEUE) for found in self.workloads)
        return sorted({queue for queue in labels if queue})

    @property
    def has_gang(self) -> bool:
        """Whether any of the objects is a JobSet."""
        return any(found["kind"] == "JobSet" for found in self.workloads)


def pods_of(workload: Object) -> Iterator[Object]:
    """Yield the pod templates of a Job or JobSet."""
    if workload["kind"] == "Job":
        yield workload["spec"]["template"]
    else:
        for replicated in workload["spec"]["replicatedJobs"]:
            yield replicated["template"]["spec"]["template"]


def needs_of(workload: Object) -> dict[str, Any]:
    """Return what one workload uses of a quota: name of the quota's resource -> amount."""
    if workload["kind"] == "JobSet":
        (replicated,) = workload["spec"]["replicatedJobs"]
        job, jobs = replicated["template"]["spec"], replicated["replicas"]
    else:
        job, jobs = workload["spec"], 1
    pods = job.get("parallelism", 1) * jobs
    needs: dict[str, Any] = {"count/jobs.batch": jobs, "pods": pods, "count/pods": pods}
    for container in job["template"]["spec"]["containers"]:
        for side in ("requests", "limits"):
            for name, text in container["resources"][side].items():
                needs[f"{side}.{name}"] = parse_quantity(text) * pods
        needs |= {name: needs[f"requests.{name}"] for name in ("cpu", "memory")}
    return needs
