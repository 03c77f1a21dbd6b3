"""Test the CronJob that collects garbage: it is off, its pod is admitted, its command works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY
from tests.cluster.controlplane import Cluster, wait_until
from tests.history.trees import put, set_age, write_run

GOLDEN = Path(REPOSITORY, "tests", "golden", "cluster")
ARTIFACTS = {
    "bare": "s3://CHANGE-ME/tuneloop",
    "eks": "s3://BUCKET/tuneloop",
    "gke": "gs://BUCKET/tuneloop",
    "kind": "s3://CHANGE-ME/tuneloop",
}


def cron_job(overlay: str) -> dict[str, Any]:
    found = yaml.safe_load_all((GOLDEN / f"{overlay}.yaml").read_text())
    (one,) = [each["spec"] for each in found if each["kind"] == "CronJob"]
    return dict(one)


def container(overlay: str) -> dict[str, Any]:
    (one,) = cron_job(overlay)["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return dict(one)


@pytest.mark.parametrize("overlay", sorted(ARTIFACTS))
def test_it_is_off_and_only_looks(overlay: str) -> None:
    found = container(overlay)
    assert cron_job(overlay)["suspend"] is True
    assert "--delete" not in found["args"]
    assert {"name": "TUNELOOP_ARTIFACTS", "value": ARTIFACTS[overlay]} in found["env"]
    has_secret = "envFrom" in found
    assert has_secret == (overlay in ("bare", "kind"))


def test_its_command_works_as_written_and_deletes_when_told_to(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "done-1")
    put(root, "tokens/abc/manifest.json")
    set_age(root, datetime.now(UTC), 30)
    found = container("gke")

    def run(*more: str) -> dict[str, Any]:
        # Kubernetes replaces $(NAME) by the variable.
        words = [*found["command"], *found["args"], *more]
        argv = [word.replace("$(TUNELOOP_ARTIFACTS)", root) for word in words]
        done = subprocess.run(
            [sys.executable, *argv[1:]], capture_output=True, text=True, check=True, env=os.environ
        )
        return dict(json.loads(done.stdout))

    looked = run()
    assert (looked["deleted"], [g["path"] for g in looked["garbage"]]) == (False, ["tokens/abc"])
    assert Path(root, "tokens").exists()
    assert run("--delete")["deleted"] is True
    assert not Path(root, "tokens").exists()
    assert run()["garbage"] == []


def test_its_pod_is_admitted(cluster: Cluster, base: str) -> None:
    """PodSecurity `restricted`, limits, quota and accounts are those of the base."""
    cluster.kubectl("create", "job", "--from=cronjob/gc", "try", "-n", base, check=True)

    def pods() -> list[str]:
        items = cluster.get("pods", "-n", base, "-l", "app.kubernetes.io/component=gc")["items"]
        return [each["spec"]["serviceAccountName"] for each in items]

    wait_until(lambda: pods() == ["tuneloop-stage"], "the pod is admitted")
    assert cluster.get("jobs", "-n", base)["items"][0]["metadata"]["name"] == "try"
