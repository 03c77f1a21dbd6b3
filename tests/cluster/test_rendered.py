"""Test that a real API server accepts the unchanged output of `tuneloop render`."""

from __future__ import annotations

import json
import random
import re
import shlex
import string
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun, stage_specs
from tests.cluster.controlplane import wait_until
from tests.cluster.node import Node
from tests.cluster.test_loop import contents, placed
from tests.cluster.test_preflight import pod_of
from tests.k8s.rendering.test_render import rendered as stage_rendered
from tuneloop import cli
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.artifacts.runs.submission import load_submission
from tuneloop.k8s.rendering.manifests import load_manifests
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.specs.cluster import ClusterSpec, StagePlacement
from tuneloop.stages.pipelines import TRAINING_STAGES

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61


@pytest.fixture
def rendered(
    tiny_run: TinyRun,
    namespace: str,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Render the tiny run for the namespace of the test with the verb itself."""
    tiny_run.change(
        execution__cluster={
            "namespace": namespace,
            "train": {"accelerator": "v5e-2x4-8t", "spot": True},
            "eval": {"accelerator": "h100-80gb-8"},
        }
    )
    folder = tmp_path / "manifests"
    monkeypatch.chdir(repository)
    cli.app(
        ["render", str(tiny_run.spec_path), "-o", str(folder), "--image", IMAGE],
        standalone_mode=False,
    )
    return folder


def test_every_file_is_taken_by_strict_validation_without_a_warning(
    cluster: Any, rendered: Path
) -> None:
    """PodSecurity `restricted` warns about a Job whose pods it would reject."""
    dry_run = ("apply", "--dry-run=server", "--validate=strict")
    for choice, count in ((("-f",), 5), (("-k",), 5), (("-R", "-f"), 13)):
        done = cluster.kubectl(*dry_run, *choice, str(rendered))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.count("created (server dry run)") == count


def test_every_single_host_shape_is_taken(cluster: Any, namespace: str, repository: Path) -> None:
    """Dry-run a train stage on each shape of the table."""
    manifests = load_manifests(str(repository / "manifests" / "k8s"))
    documents = []
    for number, key in enumerate(manifests.accelerators.keys()):
        placement = StagePlacement(accelerator=key)
        spec = ClusterSpec(namespace=namespace, train=placement)
        renderer = Renderer(
            f"shape-{number}", spec, IMAGE, None, manifests.templates, manifests.accelerators
        )
        train = stage_specs()["train"]
        if not renderer.shape(train).is_multi_host:
            documents += renderer.render(train)
    assert len(documents) > 40
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=dump(documents)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("created (server dry run)") == len(documents)


def test_applied_twice_nothing_changes(cluster: Any, namespace: str, rendered: Path) -> None:
    """The second time with `-k`, and recursively, so that the stages are applied too."""
    first = cluster.kubectl("apply", "-R", "-f", str(rendered))
    assert (first.returncode, first.stderr) == (0, "")
    for choice, count in ((("-f",), 5), (("-k",), 5), (("-R", "-f"), 13)):
        again = cluster.kubectl("apply", *choice, str(rendered))
        assert again.stdout.count("unchanged") == count, again.stdout
    jobs = cluster.get("jobs", "-n", namespace)["items"]
    stages = {job["metadata"]["labels"].get("tuneloop.dev/stage"): job for job in jobs}
    assert set(stages) == {"export", "train", "eval", "import", None}
    assert {name: job["spec"]["suspend"] for name, job in stages.items()} == {
        name: name is not None for name in stages
    }
    for job in jobs:
        assert job["metadata"]["annotations"]["tuneloop.dev/image"] == IMAGE


@pytest.fixture
def small_run(
    tiny_run: TinyRun, cluster: Any, namespace: str, store: str, repository: Path
) -> tuple[AnyPlan, Path]:
    """Render a run for the simulated node; return its plan and the folder."""
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    found = placed(tiny_run, namespace, store, repository, submitter={"cpu": "100m"})
    folder = tiny_run.folder / "rendered"
    cli.app(["render", str(tiny_run.spec_path), "-o", str(folder)], standalone_mode=False)
    return found.plan, folder


def wait_for_submitter(cluster: Any, namespace: str, run_id: str) -> None:
    """Wait until the submitter has ended, and fail with its log unless it succeeded."""
    name = f"{run_id}-submit"

    def end() -> set[str]:
        status = cluster.get("job", name, "-n", namespace).get("status", {})
        return {each["type"] for each in status.get("conditions", [])} & {"Complete", "Failed"}

    ended = wait_until(end, "the submitter has ended", 120)
    assert ended == {"Complete"}, cluster.kubectl("logs", "-n", namespace, f"job/{name}").stdout


@pytest.mark.usefixtures("node")
def test_applying_the_folder_alone_runs_the_whole_loop_in_order(
    cluster: Any, namespace: str, small_run: tuple[AnyPlan, Path]
) -> None:
    plan, folder = small_run
    prefix = Path(layout.run_prefix(plan.artifacts, plan.run_id))
    assert not prefix.exists(), "nothing but the folder knows the run"
    first = cluster.kubectl("apply", "-f", str(folder))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.count(" created") == 5, first.stdout
    wait_for_submitter(cluster, namespace, plan.run_id)
    contents(plan)  # every stage has its record, and every output its digest
    manifest = read_run_manifest(plan.artifacts, plan.run_id)
    assert manifest == plan.manifest(IMAGE)
    assert load_submission(plan.artifacts, plan.run_id).run_id == plan.run_id
    jobs = cluster.get("jobs", "-n", namespace, "-l", "tuneloop.dev/stage")["items"]
    started = {job["metadata"]["labels"]["tuneloop.dev/stage"]: job for job in jobs}
    assert list(TRAINING_STAGES) == sorted(
        started, key=lambda name: started[name]["status"]["startTime"]
    )
    assert [job["status"].get("failed", 0) for job in jobs] == [0] * len(TRAINING_STAGES)
    for choice in ("-f", "-k"):
        again = cluster.kubectl("apply", choice, str(folder), check=True)
        assert again.stdout.count(" unchanged") == 5, again.stdout
    # The Job is deleted after some days. Applying again finds the records and runs no stage.
    cluster.kubectl("delete", "job", f"{plan.run_id}-submit", "-n", namespace, check=True)
    wait_until(lambda: not cluster.get("jobs", "-n", namespace)["items"], "the stages went too")
    cluster.kubectl("apply", "-f", str(folder), check=True)
    wait_for_submitter(cluster, namespace, plan.run_id)
    assert len(cluster.get("jobs", "-n", namespace)["items"]) == 1


def test_stages_applied_by_hand_wait_until_they_are_started_and_the_submitter_takes_over(
    cluster: Any, namespace: str, node: Node, small_run: tuple[AnyPlan, Path]
) -> None:
    plan, folder = small_run
    stages = folder / "stages"
    done = cluster.kubectl("apply", "-f", str(stages))
    assert (done.returncode, done.stderr) == (0, "")
    text = (stages / "01-export.yaml").read_text()
    (command,) = re.findall(r"^#   kubectl (.*)", text, re.MULTILINE)
    cluster.kubectl(*shlex.split(command), check=True)
    record = Path(layout.record_url(plan.artifacts, plan.run_id, "export"))
    wait_until(record.exists, "export has its record", 60)
    jobs = cluster.get("jobs", "-n", namespace)["items"]
    waiting = [job for job in jobs if job["spec"]["suspend"]]
    assert len(waiting) == 3
    assert {job["status"].get("active", 0) for job in waiting} == {0}
    assert len(cluster.get("pods", "-n", namespace)["items"]) == 1, "none was tried too early"
    cluster.kubectl("apply", "-f", str(folder), check=True)
    wait_for_submitter(cluster, namespace, plan.run_id)
    contents(plan)
    assert node.processes() == 0


def test_root_pods_are_admitted_only_where_the_namespace_allows_them(
    cluster: Any, namespace: str
) -> None:
    """PodSecurity is checked on pods, so the pod of the Job's template is dry-run."""
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    placement = StagePlacement(accelerator="v5e-1x1", pod_security="baseline")
    pod = pod_of(stage_rendered("train", placement)[1])
    metadata = {**pod["metadata"], "name": "root", "namespace": namespace}
    text = json.dumps({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata})
    dry_run = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    done = cluster.kubectl(*dry_run, input=text)
    assert 'violates PodSecurity "restricted' in done.stderr
    assert "runAsUser=0" in done.stderr
    levels = [f"pod-security.kubernetes.io/{mode}=baseline" for mode in ("enforce", "warn")]
    cluster.kubectl("label", "namespace", namespace, "--overwrite", *levels, check=True)
    done = cluster.kubectl(*dry_run, input=text)
    assert (done.returncode, done.stderr) == (0, "")


def test_strings_survive_kubectl(cluster: Any, namespace: str) -> None:
    """Send 10,000 random hex and number-like strings through YAML and kubectl and compare."""
    rng = random.Random(0)
    alphabets = (string.hexdigits[:16], "0123456789e+-._xXoObB", "yYnNoOfFtTrRuUeElLsSaA")
    values = {
        f"k{n:05d}": "".join(rng.choices(alphabets[n % 3], k=rng.randint(1, 12)))
        for n in range(10_000)
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "strings", "namespace": namespace},
        "data": values,
    }
    done = cluster.kubectl("create", "-f", "-", "-o", "json", input=dump([config_map]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == values
