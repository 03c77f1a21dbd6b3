from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.__main__ import STAGES
from tests.builders import REPOSITORY, stage_specs
from tuneloop import errors
from tuneloop.errors import SpecError
from tuneloop.k8s import render
from tuneloop.k8s.render import object_name, render_stage, require_digest
from tuneloop.k8s.yaml_out import dump
from tuneloop.runs.rendering import load_manifests
from tuneloop.specs import (
    ClusterSpec,
    StagePlacement,
)

DIGEST = "sha256:" + "0964917e" * 8
IMAGE = f"registry.example/team/tuneloop@{DIGEST}"
TEMPLATES, ACCELERATORS = load_manifests(str(REPOSITORY / "manifests" / "k8s"))
ONE_HOST = [
    key
    for key in ACCELERATORS.keys()
    if not ACCELERATORS.shape(StagePlacement(accelerator=key).accelerator_request()).is_multi_host
]


def rendered(
    stage: str, placement: StagePlacement | None = None, **cluster: Any
) -> list[dict[str, Any]]:
    name = "import_" if stage == "import" else stage
    spec = ClusterSpec(namespace="training", **cluster)
    if placement is not None:
        spec = spec.model_copy(update={name: placement})
    return render_stage(
        "demo",
        stage_specs()[stage],
        spec,
        image=IMAGE,
        git_commit="0964917",
        templates=TEMPLATES,
        accelerators=ACCELERATORS,
    )


GOLDENS: dict[str, tuple[str, StagePlacement | None, dict[str, Any]]] = {
    **{f"{stage}-cpu": (stage, None, {}) for stage in STAGES},
    "train-v5e-2x4-8t-spot": (
        "train",
        StagePlacement(accelerator="v5e-2x4-8t", spot=True, cpu="24", memory="48Gi"),
        {"queue": "tpu", "priority_class": "research"},
    ),
    "train-h100-80gb-8": (
        "train",
        StagePlacement(accelerator="h100-80gb-8", reservation="team-a", memory="400Gi"),
        {"service_account": "trainer", "ttl_days": 7},
    ),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDENS)
def test_rendered_objects_snapshot(name: str, golden: Callable[[str, str], None]) -> None:
    stage, placement, cluster = GOLDENS[name]
    golden(f"k8s/{name}.yaml", dump(rendered(stage, placement, **cluster)))


@pytest.mark.parametrize("name", GOLDENS)
def test_yaml_reads_back_as_it_was(name: str) -> None:
    stage, placement, cluster = GOLDENS[name]
    documents = rendered(stage, placement, **cluster)
    assert list(yaml.safe_load_all(dump(documents))) == documents


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def test_the_pod_gets_the_argv_and_the_spec_of_the_stage() -> None:
    for stage, spec in stage_specs().items():
        config_map, job = rendered(stage)
        assert json.loads(config_map["data"]["spec.json"]) == spec.model_dump(mode="json")
        (container,) = pod_of(job)["containers"]
        assert container["command"] == [
            *("python", "-m", "jobs", stage, "--spec", "/etc/tuneloop/spec.json")
        ]
        assert container["image"] == IMAGE
        (volume,) = [v for v in pod_of(job)["volumes"] if v["name"] == "spec"]
        assert volume["configMap"]["name"] == config_map["metadata"]["name"]


def test_final_exit_codes_are_all_but_the_transient() -> None:
    """The same table as the stages' own: a code that is neither would be retried in vain."""
    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.TuneloopError)
    ]
    codes = {c.exit_code for c in classes} - {errors.Transient.exit_code}
    assert set(render.FINAL_EXIT_CODES) == codes | {1, 126, 127, 137}
    (_, rule) = rendered("export")[1]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == sorted(set(rule["onExitCodes"]["values"]))
    assert errors.Transient.exit_code not in rule["onExitCodes"]["values"]
    assert 0 not in rule["onExitCodes"]["values"]


@pytest.mark.parametrize("key", ONE_HOST)
def test_every_single_host_shape_renders(key: str) -> None:
    _, job = rendered("train", StagePlacement(accelerator=key))
    shape = ACCELERATORS.shape(StagePlacement(accelerator=key).accelerator_request())
    (container,) = pod_of(job)["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert shape.resources.items() <= container["resources"]["limits"].items()
    assert all(isinstance(q, str) for q in container["resources"]["limits"].values())
    assert pod_of(job).get("nodeSelector", {}) == shape.node_selector
    names = [volume["name"] for volume in pod_of(job)["volumes"]]
    assert ("shm" in names) == (shape.dev_shm_size is not None)
    assert [mount["name"] for mount in container["volumeMounts"]] == names


def test_several_hosts_are_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match="v5e-4x4 has 4 hosts, expected one"):
        rendered("train", StagePlacement(accelerator="v5e-4x4"))


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(SpecError, match="v5e-2x4-8t"):
        rendered("train", StagePlacement(accelerator="v5e-2x4"))


def test_kueue_is_named_only_if_the_spec_names_it() -> None:
    labels = rendered("train")[1]["metadata"]["labels"]
    assert not [key for key in labels if "kueue" in key]
    labels = rendered("train", queue="tpu")[1]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "tpu"
    assert "suspend" not in rendered("train", queue="tpu")[1]["spec"]


@pytest.mark.parametrize(
    "image", ["tuneloop", "tuneloop:latest", f"tuneloop@{DIGEST[:-1]}", f"@{DIGEST}", "a b@sha256:"]
)
def test_an_image_needs_a_digest(image: str) -> None:
    with pytest.raises(SpecError, match="a tag can point elsewhere tomorrow"):
        require_digest(image)
    assert require_digest(IMAGE) == DIGEST


@given(
    run_name=st.from_regex(r"\A[a-z]([-a-z0-9]{0,30}[a-z0-9])?\Z"),
    fingerprint=st.text(alphabet="0123456789abcdef", min_size=64, max_size=64),
    stage=st.sampled_from(sorted(STAGES)),
)
def test_names_fit_every_budget(run_name: str, fingerprint: str, stage: str) -> None:
    spec = stage_specs(run_name)[stage].model_copy(update={"fingerprint": fingerprint})
    name = object_name(run_name, spec)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) + len("-12345") <= 63  # a pod's name, which is its host name
    assert len(spec.run_id) <= 63  # a label's value
