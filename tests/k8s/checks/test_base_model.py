from __future__ import annotations

from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity
from pydantic import ValidationError

from tests.builders import Invoke, TinyRun
from tests.model_manifests import publish_manifest
from tuneloop.artifacts.model_manifest import ModelFile
from tuneloop.artifacts.runs.run_manifest import ModelOfRun
from tuneloop.k8s.checks.base_model import check_base_model, check_host_memory, quantity_to_number
from tuneloop.specs.cluster import PodResources
from tuneloop.specs.run import ExecutionSpec

IMAGE = "registry.example/tuneloop@sha256:" + "1" * 64


def findings(cluster: dict[str, Any], **model: Any) -> list[str]:
    value = {"name": "m", "family": "llama3", "random_weights": False, "place": "s3://b/m", **model}
    spec = ExecutionSpec.model_validate({"cluster": {"namespace": "n", **cluster}})
    found = check_base_model(ModelOfRun(**value), spec, ("train", "eval"))
    assert all(each.severity == "warning" for each in found)
    return [str(each) for each in found]


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        *(("2", 2), ("250m", 0.25), ("4Gi", 4 * 2**30), ("1.5G", 1.5e9), ("10k", 1e4)),
        *(("200Ki", 200 * 2**10), ("0.2Mi", 0.2 * 2**20), ("0.5", 0.5), ("1Pi", 2**50)),
    ],
)
def test_quantities(quantity: str, number: float) -> None:
    assert PodResources(memory=quantity).memory == quantity
    assert quantity_to_number(quantity) == number
    assert float(parse_quantity(quantity)) == pytest.approx(number)


@pytest.mark.parametrize(
    "text", ["0", "0.0Gi", "-1", "4gi", "4ki", "4K", "2 cores", "", ".5", "1e3"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        PodResources(memory=text)


def test_a_model_that_fits_or_is_drawn_in_the_pod_has_no_finding() -> None:
    assert findings({}, weights_bytes=1_000_000_000) == []
    assert findings({}, weights_bytes=None, place=None) == []


def test_a_model_of_this_machine_cannot_be_read_by_pods() -> None:
    (found,) = findings({}, place="/home/me/m")
    assert found == (
        "train.model: the files of model m are in /home/me/m on this machine, which pods cannot"
        " read; add the model to a bucket, without --in-place"
    )


def test_pods_that_are_smaller_than_the_model() -> None:
    assert findings({}, weights_bytes=16_100_000_000) == [
        "execution.cluster.train.ephemeral_storage: is 10Gi, but a checkpoint and the tuned model"
        " take at least 32.2 GB of local disk; raise it",
        "execution.cluster.eval.memory: is 4Gi, but the weights of model m take 16.1 GB and the"
        " stage itself at least 1 GB; raise it",
    ]
    large = {"memory": "24Gi", "ephemeral_storage": "64Gi"}
    assert findings({"train": large, "eval": large}, weights_bytes=16_100_000_000) == []


def test_pods_that_request_less_than_the_estimate() -> None:
    def found(needed_bytes: int, **train: Any) -> list[str]:
        cluster = {"namespace": "n", "train": train}
        spec = ExecutionSpec.model_validate({"cluster": cluster})
        return [str(each) for each in check_host_memory(needed_bytes, spec)]

    assert found(17 * 2**30, memory="4Gi") == [
        "execution.cluster.train.memory: is 4Gi, but a pod needs about 17.0 GiB of host memory,"
        " with the copy of a checkpoint; set it to 19Gi or more"
    ]
    assert found(17 * 2**30, memory="19Gi") == found(4 * 2**30, memory="4Gi") == []
    assert found(17 * 2**30) == [], "the renderer requests what is needed"
    assert check_host_memory(2**40, ExecutionSpec()) == []


def test_chips_have_memory_of_their_own() -> None:
    chips = {"accelerator": "h100-80gb-8", "ephemeral_storage": "64Gi"}
    assert findings({"train": chips, "eval": chips}, weights_bytes=16_100_000_000) == []


def cluster_run(tiny_run: TinyRun) -> TinyRun:
    return tiny_run.change(
        train__model={"kind": "pretrained", "model": "small-llama"},
        execution__cluster={"namespace": "n", "image": IMAGE, "shared_artifacts": True},
    )


def test_check_says_that_the_model_is_missing(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    code, _, err = tuneloop("check", cluster_run(tiny_run).spec_path)
    assert code == 12
    assert "models/small-llama/manifest.json: missing, expected the manifest of model" in err


def test_check_warns_and_the_pods_get_the_reference(
    tuneloop: Invoke, tiny_run: TinyRun, tmp_path: Any
) -> None:
    weights = ModelFile(name="model.safetensors", size_bytes=9 * 10**9, sha256="f" * 64)
    manifest = publish_manifest(tiny_run.artifacts, files=(weights,))
    spec = cluster_run(tiny_run).spec_path
    code, _, err = tuneloop("check", spec)
    assert code == 0, err
    assert "warning: execution.cluster.eval.memory: is 4Gi, but the weights" in err
    assert tuneloop("render", spec, "-o", tmp_path / "out")[0] == 0
    rendered = [path.read_text() for path in (tmp_path / "out").rglob("*train*.yaml")]
    assert any(manifest.digest in text for text in rendered)
