"""Test that a real API server accepts the unchanged output of `tuneloop render`."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun, stage_specs
from tuneloop import cli
from tuneloop.k8s.rendering.manifests import load_manifests
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.specs.cluster import ClusterSpec, StagePlacement

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
    done = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(rendered))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("created (server dry run)") == 8


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
    first = cluster.kubectl("apply", "-f", str(rendered))
    assert (first.returncode, first.stderr) == (0, "")
    second = cluster.kubectl("apply", "-f", str(rendered))
    assert second.stdout.count("unchanged") == 8, second.stdout
    jobs = json.loads(cluster.kubectl("get", "jobs", "-n", namespace, "-o", "json").stdout)
    assert {job["metadata"]["labels"]["tuneloop.dev/stage"] for job in jobs["items"]} == {
        *("export", "train", "eval", "import")
    }
    annotations = jobs["items"][0]["metadata"]["annotations"]
    assert annotations["tuneloop.dev/image"] == IMAGE


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
