"""`check --server` and Kueue's objects, on a real API server with Kueue's own schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.builders import TinyRun
from tests.cluster import controlplane
from tests.cluster.kueue import serving_kueue
from tests.cluster.test_preflight import findings, prepared
from tests.k8s.checks.test_queue_fit import KUEUE
from tuneloop.k8s.client.cluster import Cluster


@pytest.fixture
def queues(cluster: controlplane.Cluster, namespace: str) -> Iterator[None]:
    """The example queues and flavors, and a queue of a ClusterQueue that does not exist."""
    try:
        with serving_kueue(cluster):
            for file in ("flavors.yaml", "queues.yaml"):
                for found in yaml.safe_load_all((KUEUE / file).read_text()):
                    if found["kind"] == "LocalQueue":
                        found["metadata"]["namespace"] = namespace
                    cluster.apply(found)
            metadata = {"name": "orphan", "namespace": namespace}
            kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
            cluster.apply({**kind, "metadata": metadata, "spec": {"clusterQueue": "gone"}})
            cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace)
            yield
    except controlplane.ControlPlaneUnavailable as e:
        pytest.skip(str(e))


@pytest.mark.usefixtures("queues")
def test_queues_that_can_never_admit_a_stage(
    cluster: controlplane.Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
    tmp_path: Path,
) -> None:
    client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    place = {"queue": "tuneloop-cpu", "train": {"accelerator": "v6e-1x1", "queue": "orphan"}}
    (said,) = findings(client, prepared(tiny_run, repository, namespace, **place))
    assert said.startswith("error: LocalQueue orphan: names ClusterQueue gone, which does not exi")
    place["train"] = {"accelerator": "v6e-1x1", "queue": "tuneloop-chips"}
    fits = prepared(tiny_run, repository, namespace, **place)
    assert findings(client, fits) == []
    place["train"] = {"accelerator": "v5e-1x1", "queue": "tuneloop-chips"}
    (said,) = findings(client, prepared(tiny_run, repository, namespace, **place))
    assert said.startswith("error: ClusterQueue tuneloop-chips: can never admit tiny-train-")
    assert "but the pods select tpu-v5-lite-podslice" in said

    # Kueue's own limit, where its configuration can be read.
    cluster.kubectl("create", "namespace", "kueue-system", check=True)
    try:
        config = {"controller_manager_config.yaml": "waitForPodsReady:\n  timeout: 20m\n"}
        metadata = {"name": "kueue-manager-config", "namespace": "kueue-system"}
        kind = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        cluster.apply({**kind, "data": config})
        (said,) = findings(client, fits)
        assert "allow 70 minutes until pods are ready, but Kueue evicts them after 20" in said
        assert said.startswith("warning: execution.cluster.timeouts: ")
    finally:
        cluster.kubectl("delete", "namespace", "kueue-system", "--wait=false", check=True)

    # An account of the namespace may read its LocalQueues, and nothing of the whole cluster.
    verbs = ("--verb=get,list,create", "--resource=localqueues.kueue.x-k8s.io,serviceaccounts")
    cluster.kubectl("create", "role", "some", *verbs, "-n", namespace, check=True)
    account = f"--serviceaccount={namespace}:tuneloop-stage"
    cluster.kubectl("create", "rolebinding", "some", "--role=some", account, "-n", namespace)
    token = cluster.kubectl("create", "token", "tuneloop-stage", "-n", namespace, check=True)
    kubeconfig = json.loads(cluster.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.stdout.strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    limited = Cluster.connect(namespace, kubeconfig=str(tmp_path / "kubeconfig"))
    place["pod_priority_class"] = "any"
    lines = findings(limited, prepared(tiny_run, repository, namespace, **place))
    unknown = [line.split(":")[1].strip() for line in lines if "could not be checked" in line]
    assert "fit" in unknown
    assert "priority_class" in unknown
