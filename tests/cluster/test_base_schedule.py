"""The component `schedule`: its objects are valid, and its account needs no new right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY, TinyRun, letter_trace
from tests.cluster import controlplane
from tests.cluster.test_base_network import may
from tuneloop.artifacts.runs.triggers import read_last
from tuneloop.traces.client import TraceClient

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
FOLDER = REPOSITORY / "manifests" / "k8s" / "cluster"


def kustomized(cluster: controlplane.Cluster, overlay: str, folder: Path) -> list[dict[str, Any]]:
    """An overlay with the component, as docs/how-to/promotion.md shows it."""
    inside = Path(os.path.relpath(FOLDER, folder))
    (folder / "run.yaml").write_text("name: tiny\n")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(inside / "overlays" / overlay)],
        "components": [str(inside / "components" / "schedule")],
        "configMapGenerator": [
            {
                "name": "schedule",
                "namespace": "tuneloop",
                "files": ["run.yaml"],
                "options": {"disableNameSuffixHash": True},
            }
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = cluster.kubectl("kustomize", str(folder), check=True)
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize(
    ("overlay", "storage"), [("bare", ("10.1.2.3", 9000)), ("gke", ("169.254.169.254", 80))]
)
def test_it_reaches_the_store_the_objects_and_the_api_server(
    cluster: controlplane.Cluster, tmp_path: Path, overlay: str, storage: tuple[str, int]
) -> None:
    found = kustomized(cluster, overlay, tmp_path)
    rules = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
    component = "app.kubernetes.io/component"
    labels = {component: "trigger", "app.kubernetes.io/name": "tuneloop"}
    store = {component: "store", "app.kubernetes.io/name": "tuneloop"}
    for other, port in ((store, 8000), ("142.250.1.1", 443), ("10.1.2.3", 6443), storage):
        assert may(rules, "egress", labels, other, port), other
    assert may(rules, "ingress", store, labels, 8000)
    assert not may(rules, "egress", labels, {component: "postgres"}, 5432)
    roles = [each for each in found if each["kind"] in ("Role", "RoleBinding", "ServiceAccount")]
    assert not [each for each in roles if "trigger" in str(each)]


def test_its_command_submits_a_run_with_the_rights_of_the_submitter_alone(
    cluster: controlplane.Cluster,
    base: str,
    tiny_run: TinyRun,
    store: str,
    tmp_path: Path,
) -> None:
    """The words of the CronJob run with the account's token; then its pod is admitted."""
    (tmp_path / "overlay").mkdir()
    found = kustomized(cluster, "bare", tmp_path / "overlay")
    (job,) = [e for e in found if (e["kind"], e["metadata"]["name"]) == ("CronJob", "trigger")]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    account, (container,) = pod["serviceAccountName"], pod["containers"]
    place = {"namespace": base, "image": IMAGE, "submitter": {"create_account": False}}
    place |= dict.fromkeys(("export", "train", "eval", "import"), SMALL)
    tiny_run.change(
        execution__cluster={**place, "shared_artifacts": True}, execution__store_url=store
    )
    token = cluster.kubectl("create", "token", account, "-n", base, check=True).stdout.strip()
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "kubeconfig.json"
    kubeconfig.write_text(json.dumps(config))
    words = {"/etc/tuneloop-schedule/run.yaml": str(tiny_run.spec_path), "1000": "2"}
    arguments = [words.get(each, each) for each in container["args"]]

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *container["command"][1:-1], *words],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def trigger() -> dict[str, Any]:
        done = start("trigger", *arguments)
        out, err = done.communicate()
        assert done.returncode == 0, err
        return dict(json.loads(out))

    assert trigger()["action"] == "nothing"
    assert not cluster.get("jobs", "-n", base)["items"]
    with TraceClient(store) as client:
        client.post_batch([letter_trace(n) for n in (1, 2)], "two")
    started = trigger()
    assert (started["action"], started["dataset_key"]) == ("start", "letters-tiny-1")
    last = read_last(tiny_run.artifacts, "tiny")
    assert last is not None
    assert last.run_id == started["run_id"]
    (submitter,) = cluster.get("jobs", "-n", base)["items"]
    assert submitter["metadata"]["name"] == f"{started['run_id']}-submit"
    assert trigger()["action"] == "continue"  # nothing has changed, and nothing is created
    assert len(cluster.get("jobs", "-n", base)["items"]) == 1

    cluster.apply(next(e for e in found if e["metadata"]["name"] == "schedule"))
    cluster.apply(job)
    cluster.kubectl("create", "job", "--from=cronjob/trigger", "try", "-n", base, check=True)

    def is_admitted() -> bool:
        chosen = ("-l", "app.kubernetes.io/component=trigger")
        return bool(cluster.get("pods", "-n", base, *chosen)["items"])

    controlplane.wait_until(is_admitted, "the pod is admitted")
    made = ("cronjob/trigger", "job/try", f"job/{last.run_id}-submit")
    cluster.kubectl("delete", "--ignore-not-found", *made, "-n", base, check=True)
    cluster.kubectl("delete", "configmap", "-l", "tuneloop.dev/run", "-n", base, check=True)

    # Rounds: the pod is evicted, the next one adopts its Job, and a cancellation is final.
    sample = {"prompts": {"kind": "dataset", "dataset": "letters-v1"}, "max_new_tokens": 8}
    tiny_run.change(name="rounds", rounds={"count": 1, "sample": sample})

    def supervise() -> tuple[subprocess.Popen[str], str]:
        """Start a trigger; return it and the uid of the only Job once it waits for the stage."""
        process = start("trigger", *(each for each in arguments if each != "--json"))
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("export "):
                break
        assert process.poll() is None, said
        (job,) = cluster.get("jobs", "-n", base)["items"]
        return process, str(job["metadata"]["uid"])

    def end(process: subprocess.Popen[str]) -> tuple[int, str]:
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    evicted, uid = supervise()
    evicted.terminate()
    assert end(evicted)[0] == 30
    supervisor, adopted = supervise()
    assert adopted == uid
    last = read_last(tiny_run.artifacts, "rounds")
    assert last is not None
    code, err = end(start("cancel", str(last.run_id), "--artifacts", tiny_run.artifacts))
    assert code == 0, err
    assert end(supervisor)[0] == 30
    assert not cluster.get("jobs", "-n", base)["items"]
    assert trigger()["action"] == "nothing"
