"""Objects of runs without a folder, on a real API server."""

from __future__ import annotations

from pathlib import Path

from tests.builders import TinyRun
from tests.cluster import controlplane
from tests.cluster.controlplane import wait_until
from tests.k8s.twin import rendered
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.orphans import WORKLOADS, delete_orphans, find_orphans


def test_a_config_map_without_a_run_is_found_and_deleted(
    cluster: controlplane.Cluster, namespace: str, tiny_run: TinyRun
) -> None:
    client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    submission = rendered(tiny_run, namespace=namespace)
    backend = KubernetesBackend(submission, lambda: client)
    backend.submit("export", retry_failed=True)
    artifacts, kinds = submission.artifacts, [kind for kind in WORKLOADS if client.serves(kind)]

    def found(days: float = 0.0) -> list[str]:
        orphans = find_orphans(client, artifacts=artifacts, runs=(), days=days, kinds=kinds)
        return [each.kind for each in orphans]

    assert found() == []  # the Job has not ended
    name = submission.stages[0].workload["metadata"]["name"]
    cluster.kubectl("delete", "job", name, "-n", namespace, "--cascade=orphan", check=True)
    config_map = cluster.get("configmap", name, "-n", namespace)["metadata"]
    assert config_map["labels"]["tuneloop.dev/run"] == submission.run_id
    wait_until(lambda: found() == ["ConfigMap"], "the Job is gone")
    assert found(days=1.0) == []  # on the server's clock
    orphans = find_orphans(client, artifacts=artifacts, runs=(), days=0, kinds=kinds)
    assert delete_orphans(client, orphans) == orphans
    assert found() == []
    assert Path(artifacts).exists()
