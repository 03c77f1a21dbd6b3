"""Test a sweep on the real API server: submit, status, wait, cancel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tests.cluster import controlplane
from tests.cluster.test_verbs import SMALL, placed, verb

__all__ = ["placed", "verb"]  # fixtures

GRID = {"eval.max_new_tokens": [8, 9]}


@pytest.mark.usefixtures("node")
def test_a_sweep_is_submitted_waited_for_and_shown(
    placed: TinyRun,
    verb: Invoke,
    tuneloop: Invoke,
    cluster: controlplane.Cluster,
    namespace: str,
) -> None:
    placed.change(sweep={"grid": GRID, "parallelism": 2})
    at = ("--artifacts", placed.artifacts)
    code, out, err = verb("submit", placed.spec_path, "--json")
    assert code == 0, err
    submitted = json.loads(out)
    sweep_id = submitted["sweep_id"]
    assert [each["stage"] for each in submitted["submitted"]] == ["export", "export"]
    assert err.count("cluster  context test") == 1
    code, out, _ = tuneloop("status", sweep_id, *at, "--json")
    assert [m["state"] for m in json.loads(out)["members"]] == ["to run", "to run"]
    code, out, err = verb("wait", sweep_id, *at, "--for-seconds", "0")
    assert code == 32
    assert f"sweep {sweep_id}: 2 of 2 members have not ended; call `wait` again" in err
    # A Job in the cluster adopts what was submitted, and runs the rest with the rights of its Role.
    code, out, err = verb("submit", placed.spec_path, "--detach")
    assert code == 0, err
    assert f"{sweep_id}: a Job in the cluster runs 2 members; follow with:" in out
    job = f"{sweep_id}-submit"

    def ended() -> bool:
        return bool(cluster.get("job", job, "-n", namespace).get("status", {}).get("conditions"))

    controlplane.wait_until(ended, "the submitter has ended", 120)
    log = cluster.kubectl("logs", "-n", namespace, f"job/{job}").stdout
    assert cluster.get("job", job, "-n", namespace)["status"].get("succeeded") == 1, log
    assert "member 1: done" in log
    uid = cluster.get("job", job, "-n", namespace)["metadata"]["uid"]
    found = cluster.get("jobs", "-n", namespace, "-l", "tuneloop.dev/stage=eval")["items"]
    assert [each["metadata"]["ownerReferences"][0]["uid"] for each in found] == [uid] * 2
    code, out, err = verb("wait", sweep_id, *at, "--poll-seconds", "0.2")
    assert code == 0, err
    assert f"sweeps/{sweep_id}/report.md" in out
    assert "member   1: done" in err
    for stage, count in (("export", 1), ("train", 1), ("eval", 2)):
        found = list(Path(placed.artifacts).glob(f"training_runs/*/{stage}/attempts/*"))
        assert len(found) == count, stage
    code, out, _ = verb("cancel", sweep_id, *at)
    assert code == 0


def test_a_cancelled_sweep_leaves_nothing(
    placed: TinyRun, verb: Invoke, make_node: Any, cluster: controlplane.Cluster, namespace: str
) -> None:
    make_node()
    grid = {"export.validation_fraction": [0.1, 0.2, 0.3]}
    placed.change(sweep={"grid": grid, "parallelism": 2})
    placed.change(execution__cluster__export={**SMALL, "cpu": "100"})
    at = ("--artifacts", placed.artifacts)
    code, out, err = verb("submit", placed.spec_path, "--json")
    assert code == 0, err
    sweep_id = json.loads(out)["sweep_id"]
    assert len(cluster.get("jobs", "-n", namespace)["items"]) == 2
    code, out, err = verb("cancel", sweep_id, *at)
    assert code == 0, err
    assert out.count("Job ") == 2
    assert cluster.get("jobs", "-n", namespace)["items"] == []
    assert cluster.get("pods", "-n", namespace)["items"] == []
    code, _, err = verb("wait", sweep_id, *at)  # it starts no other member
    assert code == 30, err
    assert cluster.get("jobs", "-n", namespace)["items"] == []
    code, out, _ = verb("cancel", sweep_id, *at)
    assert (code, out) == (0, f"{sweep_id}: nothing is left to cancel\n")
