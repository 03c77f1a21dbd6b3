"""Test output and exit code of the verbs for runs on a cluster, as people and CI use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tests.cluster import controlplane

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}


@pytest.fixture
def placed(cluster: controlplane.Cluster, namespace: str, tiny_run: TinyRun, store: str) -> TinyRun:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    stages = dict.fromkeys(("export", "train", "eval", "import"), SMALL)
    place = {"namespace": namespace, "image": IMAGE, "shared_artifacts": True, **stages}
    return tiny_run.change(execution__cluster=place, execution__store_url=store, train__steps=2)


@pytest.fixture
def verb(tuneloop: Invoke, cluster: controlplane.Cluster) -> Invoke:
    """Run a verb against the test cluster."""
    return lambda *arguments: tuneloop(*arguments, "--kubeconfig", cluster.kubeconfig)


@pytest.mark.usefixtures("node")
def test_ci_submits_waits_and_shows_the_report(
    placed: TinyRun,
    tuneloop: Invoke,
    verb: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    namespace: str,
) -> None:
    spec, at = placed.spec_path, ("--artifacts", placed.artifacts)
    code, out, err = tuneloop("plan", spec)
    assert code == 0
    run_id = out.split()[1].rstrip(",")
    rows, (bound, estimate) = out.splitlines()[3:7], out.splitlines()[7:9]
    assert [line.split()[2:5] for line in rows] == [["to", "run", namespace]] * 4
    assert bound == "at most 0.0 chip-hours and 60.0 pod-hours on CPU until the deadlines"
    assert estimate.startswith("memory about ")
    assert max(map(len, out.splitlines())) <= 80

    code, out, err = verb("check", spec, "--server")
    assert code == 0, err
    assert f"the cluster accepts 8 objects of run {run_id}" in out
    assert "execution.artifacts" not in err, "pods of the test see the folder"
    assert f"cluster  context test, namespace {namespace}, server https://127" in err

    code, out, err = verb("status", run_id, *at)
    assert code == 2
    assert "expected a run submitted with `tuneloop submit`" in err

    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nper_hour: {cpu: {on_demand: 1000}}\n")
    placed.change(execution__prices=str(prices))
    code, out, err = verb("submit", spec)
    assert code == 0, err
    assert f"{run_id}: submitted stage export; continue with:" in out
    assert f"tuneloop wait {run_id} --artifacts {placed.artifacts}" in out

    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, err = verb("wait", run_id, *at, "--poll-seconds", "0.2")
    assert code == 0, err
    assert f"::notice title={run_id}::accuracy " in out
    (waited,) = (line for line in out.splitlines() if line.startswith("waited   "))
    assert waited.endswith(" EUR")
    report = Path(placed.artifacts) / "training_runs" / run_id / "delta_report.md"
    assert summary.read_text() == report.read_text() + "\n"
    assert "train    done" in err

    code, out, _ = tuneloop(
        "status", run_id, *at, "--json"
    )  # all records exist, so no request goes to the cluster
    assert code == 0
    assert [s["state"] for s in json.loads(out)["stages"]] == ["done"] * 4
    code, out, _ = tuneloop("explain", run_id, *at)
    assert (code, out) == (0, f"{run_id}: every stage is done\n")
    code, out, _ = tuneloop("logs", run_id, "train", *at, "--follow")
    assert code == 0
    assert f"stage train of {run_id}" in out
    code, out, err = tuneloop("logs", run_id, "tarin", *at)
    assert code == 2
    assert "stage tarin: unknown, expected one of export, train, eval, import" in err
    code, out, _ = verb("submit", spec, "--detach")
    assert (code, out) == (0, f"{run_id}: every stage is done, nothing to submit\n")


def test_a_run_that_cannot_start_is_explained_and_cancelled(
    placed: TinyRun,
    verb: Invoke,
    tuneloop: Invoke,
    make_node: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    make_node()
    at = ("--artifacts", placed.artifacts)
    placed.change(execution__cluster__export={**SMALL, "cpu": "100"})
    code, out, _ = verb("submit", placed.spec_path, "--json")
    assert code == 0
    submitted = json.loads(out)
    run_id = submitted.pop("run_id")
    assert submitted == {"stage": "export", "detached": False}

    def explained() -> str:
        _, out, _ = verb("explain", run_id, *at)
        return out if "Unschedulable" in out else ""

    out = controlplane.wait_until(explained, "the scheduler has looked for a node")
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    assert "cause no node fits pod " in said
    assert "0/1 nodes are available: 1 Insufficient cpu" in said
    assert "do add a node pool of this shape" in said
    code, out, _ = verb("status", run_id, *at)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "Unschedulable" in out

    code, out, err = tuneloop("logs", run_id, *at)
    assert code == 12
    assert "no log of any stage yet" in err

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    placed.change(execution__cluster__timeouts={"unschedulable_seconds": 0})
    assert verb("submit", placed.spec_path)[0] == 0
    code, out, err = verb("wait", run_id, *at, "--poll-seconds", "0.2")
    assert code == 21, err
    assert f"::error title={run_id}%3A export::stage export: Unschedulable: no node fits pod" in out
    assert "stage export failed" in summary.read_text()
    # The workload was deleted, but its evidence remains.
    _, out, _ = verb("explain", run_id, *at)
    assert "Insufficient cpu" in " ".join(out.split())
    code, out, _ = verb("cancel", run_id, *at)
    assert (code, out) == (0, f"{run_id}: nothing is left to cancel\n")


def test_what_a_cluster_would_refuse_is_said_before_it_is_asked(
    placed: TinyRun, verb: Invoke, tuneloop: Invoke, cluster: controlplane.Cluster, namespace: str
) -> None:
    cluster.kubectl("delete", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    code, _, err = verb("check", placed.spec_path, "--server")
    assert code == 3
    assert "error: ServiceAccount tuneloop-stage: does not exist; run `kubectl create" in err
    assert "1 problems, expected none; fix the problems above" in err
    code, out, _ = tuneloop("check", placed.spec_path)
    assert code == 0
    assert "no problem in 8 objects" in out
    code, _, err = tuneloop(
        "submit", placed.spec_path, "--context", "nowhere", "--kubeconfig", cluster.kubeconfig
    )
    assert code == 2
    assert "--context nowhere: the kubeconfig has no such context, expected one of: test" in err
    code, _, err = tuneloop("run", placed.spec_path, "--backend", "cluster", "--image", "x:latest")
    assert code == 2
    assert "pass --allow-tag" in err


def test_cancel_names_the_finalizer_that_keeps_a_pod_and_can_be_repeated(
    placed: TinyRun,
    verb: Invoke,
    make_node: Callable[..., Any],
    cluster: controlplane.Cluster,
    namespace: str,
) -> None:
    make_node()
    placed.change(execution__cluster__export={**SMALL, "cpu": "100"})
    at = ("--artifacts", placed.artifacts)
    code, out, _ = verb("submit", placed.spec_path, "--json")
    assert code == 0
    run_id = json.loads(out)["run_id"]

    def pods() -> list[Any]:
        found: list[Any] = cluster.get("pods", "-n", namespace)["items"]
        return found

    (pod,) = controlplane.wait_until(pods, "the Job has made its pod")
    name, job = pod["metadata"]["name"], pod["metadata"]["ownerReferences"][0]["name"]

    def patch(finalizers: list[str]) -> None:
        value = json.dumps({"metadata": {"finalizers": finalizers}})
        cluster.kubectl(
            "patch", "pod", name, "-n", namespace, "--type=merge", f"--patch={value}", check=True
        )

    patch([*pod["metadata"]["finalizers"], "example.com/keep"])
    code, out, _ = verb("cancel", run_id, *at, "--stage", "train")
    assert (code, out) == (0, f"{run_id}: nothing is left to cancel\n")
    for _ in range(2):  # cancelling again gives the same answer
        code, out, err = verb("cancel", run_id, *at, "--timeout-seconds", "3")
        assert code == 32, err
        assert out == f"{run_id}: ended Job {job}\n"
        assert "not everything has ended within 3 seconds" in err
        assert f"pod {name}: finalizer example.com/keep keeps it; ask the owner" in err
        assert f"Job {job}: waits until its pods are gone" in err
    # Status knows that the run was cancelled, although the Job still exists.
    _, out, _ = verb("status", run_id, *at)
    assert "Cancelled" in out
    patch([])
    code, out, err = verb("cancel", run_id, *at, "--stage", "export", "--json")
    assert code == 0, err
    assert json.loads(out)["remaining"] == []
    assert pods() == []
    code, out, _ = verb("cancel", run_id, *at)
    assert (code, out) == (0, f"{run_id}: nothing is left to cancel\n")
