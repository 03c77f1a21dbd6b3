"""Test that the test control plane has the pinned version and behaves like a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import controlplane
from tests.cluster.controlplane import (
    Cluster,
    ControlPlane,
    ControlPlaneError,
    ControlPlaneUnavailable,
    kubernetes_version,
    wait_until,
)

IMAGE = "image.invalid/none@sha256:" + "0" * 64


def pod_spec(**container: Any) -> dict[str, Any]:
    """Return a pod spec that PodSecurity `restricted` admits."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "restartPolicy": "Never",
        "securityContext": security,
        "containers": [{"name": "main", "image": IMAGE, "securityContext": context} | container],
    }


def make_job(namespace: str, pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": pod or pod_spec()}} | spec,
    }


def test_the_server_and_kubectl_are_the_pinned_version(cluster: Cluster) -> None:
    if cluster.control_plane is None:
        pytest.skip("not our own control plane")
    versions = json.loads(cluster.kubectl("version", "-o", "json", check=True).stdout)
    assert versions["serverVersion"]["gitVersion"] == kubernetes_version() == "v1.36.3"
    assert versions["clientVersion"]["gitVersion"] == kubernetes_version()


def test_the_job_controller_makes_a_pod(cluster: Cluster, namespace: str) -> None:
    said = cluster.apply(make_job(namespace))
    assert said == "job.batch/one created\n"
    pods = wait_until(lambda: cluster.get("pods", "-n", namespace)["items"], "the Job has a pod")
    assert pods[0]["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "one"
    if cluster.control_plane is not None:
        assert pods[0]["status"]["phase"] == "Pending"


def test_the_scheduler_says_why_a_pod_waits(cluster: Cluster, namespace: str) -> None:
    no_such_node = {**pod_spec(), "nodeSelector": {"tuneloop.test/none": "yes"}}
    cluster.apply(make_job(namespace, no_such_node))

    def reason() -> str:
        pods = cluster.get("pods", "-n", namespace)["items"]
        conditions = [each for pod in pods for each in pod["status"].get("conditions", [])]
        return next((each["reason"] for each in conditions if each["status"] == "False"), "")

    assert wait_until(reason, "the scheduler has looked at the pod") == "Unschedulable"


def test_a_pod_that_breaks_restricted_is_refused(cluster: Cluster, namespace: str) -> None:
    root = pod_spec(securityContext={"runAsUser": 0})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": root}
    done = cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(pod))
    assert done.returncode == 1
    assert 'violates PodSecurity "restricted:latest"' in done.stderr
    assert "Warning: would violate PodSecurity" in cluster.apply(make_job(namespace, root)), (
        "a Job warns"
    )


def test_strict_validation_refuses_an_unknown_field(cluster: Cluster, namespace: str) -> None:
    job = json.dumps(make_job(namespace, backofLimit=1))
    done = cluster.kubectl("apply", "--validate=strict", "-f", "-", input=job)
    assert done.returncode == 1
    assert 'strict decoding error: unknown field "spec.backofLimit"' in done.stderr


def test_a_quota_refuses_a_job(cluster: Cluster, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    cluster.apply(quota)
    done = cluster.kubectl("apply", "-f", "-", input=json.dumps(make_job(namespace)))
    assert done.returncode == 1
    assert "(Forbidden)" in done.stderr
    assert "exceeded quota: none" in done.stderr


def test_a_service_account_without_a_role_may_nothing(cluster: Cluster, namespace: str) -> None:
    made = cluster.kubectl("create", "token", "default", "-n", namespace, check=True)
    done = cluster.kubectl("get", "jobs", "-n", namespace, f"--token={made.stdout.strip()}")
    assert f"system:serviceaccount:{namespace}:default" in done.stderr
    assert "forbidden" in done.stderr


def test_without_go_or_binaries_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(ControlPlaneUnavailable, match="install Go"):
        controlplane.ensure_binaries()


def test_an_old_go_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho go1.19.8\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(ControlPlaneUnavailable, match="install Go"):
        controlplane.ensure_binaries()


def test_a_failed_start_shows_the_logs_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 3\n")
    broken.chmod(0o755)
    control_plane = ControlPlane(tmp_path)
    with pytest.raises(ControlPlaneError, match=r"etcd ended:\n--- etcd\.log\nno such flag"):
        control_plane.__enter__()
    assert not control_plane.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_components_die_with_a_killed_parent(repository: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    never_listens = tmp_path / "etcd"
    never_listens.write_text(
        f"#!/bin/sh\necho $$ > {told}.new\nmv {told}.new {told}\nexec sleep 600\n"
    )
    never_listens.chmod(0o755)
    script = (
        "import pathlib, sys\n"
        "from tests.cluster.controlplane import ControlPlane\n"
        "ControlPlane(pathlib.Path(sys.argv[1])).__enter__()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed parent cannot clean up
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=repository, env=environment) as parent:
        wait_until(told.exists, "the component runs")
        parent.kill()
    wait_until(lambda: not is_running(int(told.read_text())), "the component is gone", seconds=5)


def is_running(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
