"""Pods per second that the Job controller creates for a multi-host run; its rate limit decides.

A slice of the gang of docs/explanation/appendix-scale.md, on a control plane without nodes: fewer
hosts, whose pods are made and stay Pending. Measured with the controller manager's defaults and
with the flags of large clusters.
"""

from __future__ import annotations

import json
import sys
import time

from figure import print_figure, sized
from scale import REPOSITORY, SLICE, Row, Tables, objects_of, renderer_of, show

sys.path.insert(0, str(REPOSITORY))

from tests.cluster.controlplane import Cluster, ControlPlane, ensure_binaries

PODS = sized(600, 60)
LIMITS = {"20 requests/s, the default": (20, 30), "300 requests/s": (300, 500)}
"""Values of --kube-api-qps and --kube-api-burst of kube-controller-manager."""


class LimitedControlPlane(ControlPlane):
    """A control plane whose controllers may send a given number of requests per second."""

    limits = (20, 30)

    def _controller_manager_flags(self) -> list[str]:
        flags = [f for f in super()._controller_manager_flags() if not f.startswith("--kube-api-")]
        qps, burst = self.limits
        return [*flags, f"--kube-api-qps={qps}", f"--kube-api-burst={burst}"]


def pods_a_second(limits: tuple[int, int], pods: int = PODS) -> float:
    """Return the pods of one Job that the controller creates per second after the initial burst."""
    plane = LimitedControlPlane(ensure_binaries())
    plane.limits = limits
    gang = next(d for d in objects_of(renderer_of(SLICE, "default")) if d["kind"] == "JobSet")
    template = gang["spec"]["replicatedJobs"][0]["template"]
    metadata = {"name": "gang", "namespace": "default"}
    spec = {**template["spec"], "completions": pods, "parallelism": pods}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    with plane as running:
        cluster = running.cluster
        cluster.kubectl("create", "serviceaccount", "tuneloop-stage", check=True)
        cluster.kubectl("create", "-f", "-", input=json.dumps(job), check=True)
        seen: list[tuple[float, int]] = []
        while not seen or seen[-1][1] < pods:
            assert not seen or seen[-1][0] - seen[0][0] < 300, f"{seen[-1][1]} pods in five minutes"
            count = _count(cluster)
            if count > min(limits[1], pods - 1):
                seen.append((time.monotonic(), count))
            time.sleep(0.2)
    (since, first), (until, last) = seen[0], seen[-1]
    return (last - first) / (until - since) if until > since else float(last)


def _count(cluster: Cluster) -> int:
    """Count the pods of the namespace: list one, and read how many more the server has."""
    path = "/api/v1/namespaces/default/pods?limit=1"
    found = json.loads(cluster.kubectl("get", "--raw", path, check=True).stdout)
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))


def tables() -> Tables:
    """The figures of docs/explanation/appendix-scale.md."""
    rows: list[Row] = [["the controller manager may send", "pods of a Job a second"]]
    rows += [[title, f"{pods_a_second(limits):,.0f}"] for title, limits in LIMITS.items()]
    return {"scale_gang rates": rows}


def main() -> None:
    """Print the table."""
    found = tables()
    show(found)
    (_, default), (_, raised) = found["scale_gang rates"][1:]
    print_figure("scale_gang", "pods/s", [(float(raised), float(default))])


if __name__ == "__main__":
    main()
