"""The check of images: labels in a real registry against what rendered stages need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests import registry
from tests.postgres import free_port
from tuneloop.k8s.checks.flight import Preflight
from tuneloop.k8s.checks.images import images
from tuneloop.specs.cluster import ClusterSpec, SubmitterSpec

BASE = {
    "dev.tuneloop.protocols": "file,gs,s3",
    "dev.tuneloop.extras": "data,gcs,k8s,s3,store",
}
TRAIN = {**BASE, "dev.tuneloop.extras": "data,gcs,s3,store,train", "dev.tuneloop.jax": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry.Registry]:
    with registry.running(tmp_path_factory.mktemp("registry")) as found:
        yield found


def found_with(
    repository: Path,
    image: str,
    *stages: str,
    artifacts: str = "gs://b",
    submitter: str | None = None,
) -> list[str]:
    objects = []
    for stage in stages:
        text = (repository / "tests/golden/k8s" / f"{stage}.yaml").read_text("utf-8")
        for each in yaml.safe_load_all(text):
            objects.append((stage, each))
            if each["kind"] == "Job":
                each["spec"]["template"]["spec"]["containers"][0]["image"] = image
            if each["kind"] == "JobSet":
                (job,) = each["spec"]["replicatedJobs"]
                pod = job["template"]["spec"]["template"]["spec"]
                pod["containers"][0]["image"] = image
    cluster = ClusterSpec(namespace="n", submitter=SubmitterSpec(image=submitter))
    flight = Preflight(cast(Any, None), objects, cluster, artifacts)
    return [f"{each.severity}: {each}" for each in images(flight)]


LOOP = ("export-cpu", "train-cpu", "eval-cpu", "import-cpu")


@pytest.mark.parametrize("artifacts", ["gs://b", "gcs://b", "s3://b", "s3a://b", "/mnt/läufe 🧪"])
def test_an_image_that_has_all_passes(
    artifacts: str, store: registry.Registry, repository: Path
) -> None:
    image = store.push("train", TRAIN)
    assert found_with(repository, image, *LOOP, artifacts=artifacts) == []


def test_a_missing_protocol_is_an_error(store: registry.Registry, repository: Path) -> None:
    image = store.push("local", {**TRAIN, "dev.tuneloop.protocols": "file"})
    (error,) = found_with(repository, image, *LOOP, artifacts="s3://b/läufe")
    assert error == (
        f"error: image {image}: has no package for s3://, which execution.artifacts uses; expected"
        " one of file; build the image with the package, or use another bucket"
    )
    (error,) = found_with(repository, store.push("train", TRAIN), *LOOP, artifacts="abfs://b")
    assert "has no package for abfs://" in error


def test_a_missing_extra_is_an_error_for_each_stage(
    store: registry.Registry, repository: Path
) -> None:
    image = store.push("base", BASE)
    found = found_with(repository, image, *LOOP)
    assert found == [
        f"error: image {image}: has no extra train, which stage {stage} needs; use an image of"
        " target `train`"
        for stage in ("train", "eval")
    ]


@pytest.mark.parametrize(
    ("stage", "built", "needed"),
    [
        ("train-v6e-4x4", "cpu", "tpu"),
        ("train-v6e-4x4", "tpu", None),
        ("train-h100-80gb-8", "tpu", "cuda"),
        ("train-h100-80gb-8x4", "cuda", None),
        ("train-cpu", "cuda", None),
        ("export-tpu", "cpu", None),
    ],
)
def test_jax_is_built_for_the_machine(
    stage: str, built: str, needed: str | None, store: registry.Registry, repository: Path
) -> None:
    image = store.push(f"train-{built}", {**TRAIN, "dev.tuneloop.jax": built})
    found = found_with(repository, image, stage)
    assert found == (
        []
        if needed is None
        else [
            f"error: image {image}: has JAX for {built}, but stage train needs it for {needed};"
            f" build it with JAX_VARIANT={needed}"
        ]
    )


def test_the_submitter_needs_the_client(store: registry.Registry, repository: Path) -> None:
    image = store.push("train", TRAIN)
    other = store.push("other", TRAIN)
    (error,) = found_with(repository, other, *LOOP, submitter=image)
    assert error.startswith(f"error: image {image}: has no extra k8s, which the submitter needs")
    base = store.push("base", BASE)
    assert found_with(repository, image, *LOOP, submitter=base) == []


def test_what_cannot_be_known_is_a_warning(store: registry.Registry, repository: Path) -> None:
    image = store.push("foreign", {"maintainer": "nobody"})
    (warning,) = found_with(repository, image, *LOOP)
    assert warning.startswith(f"warning: image {image}: has no label dev.tuneloop.extras, so")
    image = f"127.0.0.1:{free_port()}/a@sha256:{'1' * 64}"
    (warning,) = found_with(repository, image, *LOOP)
    assert warning.startswith(f"warning: image {image}: not checked for the packages that the run")
    assert "cannot be reached" in warning
