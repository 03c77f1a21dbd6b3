"""Test that the command, variables and mounts of the store's Deployment start a store.

The simulated node runs the pod's command as a process, without image, probes and read-only root.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.cluster.controlplane import Cluster, wait_until
from tests.postgres import Postgres, free_port
from tuneloop.store.middleware.auth import new_token
from tuneloop.traces.client import TraceClient

Object = dict[str, Any]


def objects(repository: Path, overlay: str, namespace: str) -> list[Object]:
    """Return the account and Deployment of an overlay, in the namespace of the test."""
    text = (repository / "tests" / "golden" / "cluster" / f"{overlay}.yaml").read_text()
    wanted = {("ServiceAccount", "tuneloop-store"), ("Deployment", "store")}
    found = [
        each
        for each in yaml.safe_load_all(text)
        if (each["kind"], each["metadata"]["name"]) in wanted
    ]
    for each in found:
        each["metadata"]["namespace"] = namespace
    return found


def secret(namespace: str, name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("overlay", ["gke", "bare"])
def test_the_deployment_starts_a_store(
    overlay: str,
    cluster: Cluster,
    namespace: str,
    postgres: Postgres,
    repository: Path,
    tmp_path: Path,
) -> None:
    account, deployment = objects(repository, overlay, namespace)
    port, name = free_port(), postgres.new_database()
    token, line = new_token("loop", "write")
    # Adapt to this machine: port, storage, one replica, and no PriorityClass of the cluster.
    deployment["spec"]["replicas"] = 1
    pod = deployment["spec"]["template"]["spec"]
    del pod["priorityClassName"]
    (container,) = pod["containers"]
    container["args"][container["args"].index("8000")] = str(port)
    variables = {each["name"]: each for each in container["env"]}
    variables["TUNELOOP_ARTIFACTS"]["value"] = str(tmp_path / "artifacts")
    if overlay == "bare":  # its URL has no password, which comes from the Secret
        assert variables["TUNELOOP_DATABASE"]["value"] == "postgresql://tuneloop@postgres/tuneloop"
        url = f"postgresql://postgres@127.0.0.1:{postgres.port}/{name}"
        variables["TUNELOOP_DATABASE"]["value"] = url
    cluster.apply(
        secret(namespace, "tuneloop-store-tokens", tokens=line),
        secret(namespace, "tuneloop-database", url=postgres.url(name)),
        secret(namespace, "tuneloop-postgres", password="a-test-password"),
        secret(namespace, "tuneloop-credentials", AWS_REGION="nowhere"),
        account,
        deployment,
    )
    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_ready, "the store is ready", 60)
    assert httpx.get(f"{address}/api/traces").status_code == 401
    trace: dict[str, Any] = {
        "trace_version": "1.0",
        "prompt": "1+1?",
        "final_answer": "2",
        "meta": {},
    }
    trace["steps"] = [{"i": 0, "type": "reason", "content": "add"}]
    with TraceClient(address, token=token) as client:
        assert len(client.post_batch([trace], "one")) == 1
        built = client.build_dataset({"dataset_name": "d", "dataset_version": "v1"})
    assert built["trace_count"] == 1
    assert (tmp_path / "artifacts" / "datasets" / "d-v1" / "manifest.json").is_file()
    logs = cluster.kubectl("logs", "deployment/store", "-n", namespace, check=True).stdout
    lines = [json.loads(each) for each in logs.splitlines() if each.startswith("{")]
    assert {each["status"] for each in lines} >= {201, 401}
    assert token not in logs
