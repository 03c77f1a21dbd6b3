"""Sizes of one run's objects in etcd and on the wire, measured with a real control plane.

etcd stores built-in kinds as protobuf and a JobSet as JSON. On the wire both are JSON, with the
managed fields that the server adds. The sizes vary by some bytes with names and times. The page
therefore rounds them, and tests/cluster/test_scale.py allows a difference of a quarter.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from dataclasses import dataclass
from typing import Any

from figure import print_figure
from scale import MEASURED, REPOSITORY, SLICE, Row, Tables, kilobytes, objects_of, renderer_of, show

sys.path.insert(0, str(REPOSITORY))

from tests.cluster.controlplane import Cluster, open_cluster, wait_until
from tests.cluster.jobset import serve_jobset
from tests.cluster.node import Node
from tuneloop.specs.cluster import StagePlacement

NAMESPACE = "weighed"
PLACES = {
    "ConfigMap": "configmaps",
    "Job": "jobs",
    "JobSet": "jobset.x-k8s.io/jobsets",
    "Pod": "pods",
    "Event": "events",
}
"""Kind -> prefix of its objects in etcd, below /registry/."""


@dataclass(frozen=True)
class Weight:
    """Size in bytes of the largest object of a kind."""

    stored: int
    """Bytes in etcd."""
    sent: int
    """Bytes as JSON on the wire."""


def weigh(cluster: Cluster, namespace: str = NAMESPACE) -> dict[str, Weight]:
    """Create a run and a JobSet, let the first pod start, and measure all objects."""
    serve_jobset(cluster)
    cluster.kubectl("create", "namespace", namespace, check=True)
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    config_map, job, *_, submission, _ = objects_of(renderer_of(StagePlacement(), namespace))
    cluster.apply(config_map, submission, options=("--server-side",))
    cluster.kubectl("create", "-f", "-", input=json.dumps(job), check=True)
    gang = next(
        document
        for document in objects_of(renderer_of(SLICE, namespace))
        if document["kind"] == "JobSet"
    )
    cluster.kubectl("create", "-f", "-", input=json.dumps(gang), check=True)
    control_plane = cluster.control_plane
    assert control_plane is not None, "etcd is asked, so the cluster has to be ours"
    with Node(control_plane, "weigher", checkout=REPOSITORY):

        def runs() -> bool:
            pods = cluster.get("pods", "-n", namespace)["items"]
            return bool(pods) and pods[0]["status"]["phase"] != "Pending"

        wait_until(runs, "the first stage's pod runs", 60)
        return {
            kind: Weight(
                max(_stored(control_plane, f"/registry/{place}/{namespace}/")),
                max(_sent(cluster, place.rsplit("/", 1)[-1], namespace)),
            )
            for kind, place in PLACES.items()
        }


def _stored(control_plane: Any, prefix: str) -> list[int]:
    """Return the sizes of all values below a key of etcd."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    asked = {
        name: base64.b64encode(key.encode()).decode()
        for name, key in (("key", prefix), ("range_end", end))
    }
    url = f"http://127.0.0.1:{control_plane._etcd_port}/v3/kv/range"
    with urllib.request.urlopen(url, json.dumps(asked).encode()) as reply:
        found = json.loads(reply.read())["kvs"]
    return [len(base64.b64decode(each["value"])) for each in found]


def _sent(cluster: Cluster, plural: str, namespace: str) -> list[int]:
    done = cluster.kubectl(
        "get", plural, "-n", namespace, "-o", "json", "--show-managed-fields", check=True
    )
    return [len(json.dumps(each).encode()) for each in json.loads(done.stdout)["items"]]


def tables(weights: dict[str, Weight]) -> Tables:
    """The figures of docs/explanation/appendix-scale.md."""
    rows: list[Row] = [["one object", "in etcd", "as JSON"]]
    rows += [[kind, kilobytes(w.stored), kilobytes(w.sent)] for kind, w in weights.items()]
    return {"scale_etcd weights": rows}


def main() -> None:
    """Print the table; the figure compares the size of a pod with the size in MEASURED."""
    with open_cluster() as cluster:
        weights = weigh(cluster)
    show(tables(weights))
    print_figure("scale_etcd", "bytes", [(weights["Pod"].stored, MEASURED["Pod"][0])])


if __name__ == "__main__":
    main()
