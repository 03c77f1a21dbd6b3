"""The workflow that docs/how-to/ci.md shows, run by act on a real API server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import REPOSITORY, TinyRun
from tests.ci.actions import Hub, open_hub
from tests.cluster import controlplane
from tests.cluster.node import Node
from tuneloop.runs.gating.promotion import load_history
from tuneloop.stages.pipelines import TRAINING_STAGES

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
VARIABLES = {
    "TUNELOOP_IMAGE": IMAGE,
    "WORKLOAD_IDENTITY_PROVIDER": "projects/1/p",
    "SERVICE_ACCOUNT": "ci@project.example",
    "CLUSTER": "main",
    "LOCATION": "europe-west4",
    "PROJECT": "project",
}
LOGIN = ["login projects/1/p ci@project.example", "kubeconfig main europe-west4"]


def caller(**inputs: str) -> str:
    """The workflow that docs/how-to/ci.md gives, with more inputs."""
    text = (REPOSITORY / "docs/how-to/ci.md").read_text()
    found = re.search(r"```yaml\n(name: Train\n.*?)```", text, re.DOTALL)
    assert found, "docs/how-to/ci.md shows no workflow named Train"
    return found[1] + "".join(f'      {name}: "{value}"\n' for name, value in inputs.items())


@pytest.fixture
def hub_of(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    store: str,
    tmp_path: Path,
) -> Callable[..., Hub]:
    """Return a function that makes a repository with a run spec for the test cluster."""
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)

    def make(workflow: str, **changes: Any) -> Hub:
        stages = dict.fromkeys(("export", "train", "eval", "import"), SMALL)
        tiny_run.change(
            execution__cluster={"namespace": namespace, "shared_artifacts": True, **stages},
            execution__store_url=store,
            train__steps=2,
        ).change(**changes)
        files = {"runs/sft.yaml": tiny_run.spec_path.read_text()}
        return open_hub(tmp_path / "hub", cluster.kubeconfig, workflow, **files)

    return make


def head_of(hub: Hub) -> str:
    return (hub.caller / ".git/refs/heads/main").read_text().strip()


@pytest.mark.usefixtures("node")
def test_a_merge_submits_waits_with_new_credentials_and_comments(
    hub_of: Callable[..., Hub], tiny_run: TinyRun
) -> None:
    hub = hub_of(caller(**{"wait-seconds": "7", "min-accuracy": "${{ vars.MIN_ACCURACY }}"}))
    head = head_of(hub)
    hub.change(
        pulls={head: [7]}, comments=[comment(1, "User"), comment(2, "Bot", "<!-- other -->")]
    )
    event = {"ref": "refs/heads/main", "after": head}
    done = hub.act("push", event, **VARIABLES)
    outputs, waits = done.output, done.output.count("⭐ Run Main Wait")
    for _ in range(
        3
    ):  # on a slow machine seven waits are over before the run: as docs/how-to/ci.md says
        if "the run continues, but this job has reached its time limit" not in done.output:
            break
        done = hub.act("push", event, **VARIABLES)
        outputs, waits = outputs + done.output, waits + done.output.count("⭐ Run Main Wait")
    assert done.code == 0, outputs
    (run,) = (Path(tiny_run.artifacts) / "training_runs").iterdir()
    assert f"::set-output:: run_id={run.name}" in outputs
    assert "the cluster accepts 8 objects of run" in done.job("submit")
    assert all((run / stage / "record.json").exists() for stage in TRAINING_STAGES)
    # Each of the three jobs logs in, and so does every wait; each login invalidates the one before.
    assert waits >= 2
    assert "is still running: " in outputs
    logins = [line for line in hub.log if not line.startswith("pip ")]
    assert logins == LOGIN * (3 * outputs.count("⭐ Run Main Submit") + waits)
    *old, newest = sorted(hub.folder.glob("log.kubeconfig.*"), key=lambda p: p.stat().st_ino)
    kubeconfigs = [path.read_text() for path in (*old, newest)]
    assert sum('"token": "expired"' in text for text in kubeconfigs) == len(old)
    assert "the gate passes" in done.job("report")
    (promoted,) = load_history(tiny_run.artifacts, "candidate")
    assert (promoted.model.name, promoted.why) == (run.name, f"commit {head}")
    assert promoted.gate is not None
    assert promoted.gate.conditions["min_gain"] == 0
    assert (promoted.ci_run or "").startswith("https://github.com/")
    comments = hub.state["comments"]
    assert [c["id"] for c in comments] == [1, 2, 1002]
    body = comments[-1]["body"]
    assert body.startswith(f"<!-- tuneloop run tiny -->\n### tuneloop: `{run.name}`: ")
    assert "| **all** | 10 |" in body
    assert "[workflow run](https://github.com/" in body

    # The same commit again: nothing runs, the comment is brought up to date, and the gate is shut.
    again = hub.act("push", event, **VARIABLES, MIN_ACCURACY="1")
    assert again.code == 1
    assert "every stage is done, nothing to submit" in again.job("submit"), again.output
    assert "expected at least 100.0 %" in again.job("report")
    assert "exit status 13" in again.job("report")
    assert len(load_history(tiny_run.artifacts, "candidate")) == 1
    assert len(hub.state["comments"]) == 3
    assert hub.state["calls"][-1].startswith("PATCH repos/")


def test_a_label_submits_and_a_run_that_fails_says_why(
    hub_of: Callable[..., Hub],
    make_node: Callable[..., Node],
) -> None:
    make_node()
    hub = hub_of(
        caller(),
        execution__cluster__export={**SMALL, "cpu": "100"},
        execution__cluster__timeouts={"unschedulable_seconds": 0},
    )
    payload = {"action": "labeled", "pull_request": {"number": 9}, "label": {"name": "docs"}}
    done = hub.act("pull_request", payload, **VARIABLES)
    assert (hub.log, hub.state["calls"]) == ([], []), "another label starts nothing"
    done = hub.act("pull_request", {**payload, "label": {"name": "train"}}, **VARIABLES)
    assert done.code == 1
    assert "exit status 21" in done.job("wait"), done.output
    assert "no report: stage export: Unschedulable: no node fits pod" in done.job("report")
    assert "exit status 12" in done.job("report")
    (said,) = hub.state["comments"]
    assert said["issue"] == 9
    assert "stage export failed\n\n`Unschedulable`: `no node fits pod" in said["body"]


def test_what_a_cluster_would_refuse_is_not_submitted(
    hub_of: Callable[..., Hub],
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
) -> None:
    hub = hub_of(caller(), execution__cluster__service_account="nobody")
    done = hub.act("push", {"ref": "refs/heads/main", "after": head_of(hub)}, **VARIABLES)
    assert done.code == 1
    assert "ServiceAccount nobody: does not exist" in done.job("submit")
    assert not (Path(tiny_run.artifacts) / "training_runs").exists()
    assert cluster.get("jobs", "-n", namespace)["items"] == []
    assert hub.state["calls"] == []  # no run was submitted, so nothing is reported


def comment(number: int, kind: str, body: str = "<!-- tuneloop run tiny -->\nmine") -> Any:
    return {"id": number, "issue": 7, "user": {"type": kind}, "body": body}
