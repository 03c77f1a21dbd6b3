from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import REPOSITORY, TinyRun
from tests.k8s import twin
from tests.k8s.rendering.test_render import GOLDENS, MANIFESTS, rendered, submitter
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.rendering.comments import dump_commented
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.specs.cluster import StagePlacement

TEMPLATES = MANIFESTS.templates


def comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.lstrip().startswith("# ")]


def golden_objects() -> list[list[dict[str, Any]]]:
    stages = [rendered(stage, placed, **cluster) for stage, placed, cluster in GOLDENS.values()]
    return [*stages, submitter()]


def test_comments_change_nothing_but_lines_of_their_own() -> None:
    for documents in golden_objects():
        text = dump_commented(documents, TEMPLATES)
        assert list(yaml.safe_load_all(text)) == documents
        kept = [line for line in text.splitlines() if not line.lstrip().startswith("# ")]
        assert kept == dump(documents).splitlines()


@pytest.mark.parametrize("name", ["job", "jobset", "pod", "configmap", "submitter"])
def test_every_reason_of_a_template_is_in_a_rendered_file(name: str) -> None:
    """The comments above `apiVersion` or `metadata` describe the template and stay there."""
    lines = (REPOSITORY / "manifests" / "k8s" / f"{name}.yaml").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    reasons = comments("\n".join(lines[first:]))
    found = {
        line
        for documents in golden_objects()
        for line in comments(dump_commented(documents, TEMPLATES))
    }
    # Fields that only some specs have.
    for documents in (
        submitter(submitter={"account_annotations": {"a.b/c": "on"}}),
        rendered("eval", StagePlacement(attempt_deadline_seconds=600)),
    ):
        found |= set(comments(dump_commented(documents, TEMPLATES)))
    assert reasons
    assert [line for line in reasons if line not in found] == []


TABLE_REASONS = [
    ({}, "Without this, the autoscaler drains nodes", "cluster-autoscaler.kubernetes.io/safe"),
    (
        {"accelerator": "v5e-4x4"},
        "The accelerator and the topology identify",
        "cloud.google.com/gke",
    ),
    ({"accelerator": "v5e-4x4"}, "`tpu` comes first, then `cpu`", "- name: JAX_PLATFORMS"),
    (
        {"accelerator": "v5e-4x4"},
        "Applies to more than one host.",
        "alpha.jobset.sigs.k8s.io/exclu",
    ),
    (
        {"accelerator": "v5e-2x4-4t"},
        "labels equal those of the 8-chip host",
        "cloud.google.com/gke-",
    ),
    ({"accelerator": "h100-80gb-8"}, "as for TPUs, JAX fails if no GPU", "- name: JAX_PLATFORMS"),
    ({"accelerator": "h100-80gb-8"}, "NCCL passes data between the processes", "- name: shm"),
    ({"accelerator": "l4-1"}, "GKE adds this one by itself", "- key: nvidia.com/gpu"),
    ({"accelerator": "a100-40gb-1"}, "GKE's name for the 40 GB card", "cloud.google.com/gke-acc"),
    ({"accelerator": "l4-1", "spot": True}, "Google gives 30 seconds' notice", "terminationGrace"),
    ({"accelerator": "l4-1", "flex_start": True}, "GKE waits for capacity", "cloud.google.com/gke"),
    ({"accelerator": "l4-1", "reservation": "r"}, "Both labels are needed", "cloud.google.com/re"),
]


@pytest.mark.parametrize(("placed", "reason", "field"), TABLE_REASONS)
def test_the_reasons_of_the_accelerator_table_are_above_their_fields(
    placed: dict[str, Any], reason: str, field: str
) -> None:
    text = dump_commented(rendered("train", StagePlacement(**placed)), TEMPLATES)
    lines = [line.strip() for line in text.splitlines()]
    (start,) = (n for n, line in enumerate(lines) if line.startswith("#") and reason in line)
    below = next(line for line in lines[start:] if not line.startswith("#"))
    assert below.startswith(field)


def test_reasons_of_other_machines_are_not_written() -> None:
    cpu, gpu = (
        dump_commented(rendered("train", StagePlacement(accelerator=key)), TEMPLATES)
        for key in ("cpu", "h100-80gb-8x4")
    )
    assert "NCCL" not in cpu
    assert "Spot nodes in pools" not in cpu
    assert "30 seconds' notice" not in cpu + gpu
    assert "`tpu` comes first" not in gpu
    assert "LIBTPU" not in cpu + gpu


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_next_to_comments(text: str) -> None:
    config_map = {**rendered("export")[0], "data": {"spec.json": text, text: f"# {text}\nspec:\n"}}
    assert yaml.safe_load(dump_commented([config_map], TEMPLATES)) == config_map


def test_objects_have_the_recommended_labels_and_pods_do_not(tiny_run: TinyRun) -> None:
    submission = twin.rendered(tiny_run)
    text = KubernetesBackend(submission, twin.Twin).files()
    documents = [
        one
        for name, content in text.items()
        if Path(name).suffix == ".yaml"
        for one in yaml.safe_load_all(content)
    ]
    assert len(documents) == 13
    for document in documents:
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "tuneloop"
        assert labels["app.kubernetes.io/part-of"] == "tuneloop"
        assert labels["app.kubernetes.io/managed-by"] == "tuneloop"
        assert labels["app.kubernetes.io/version"]
        shared = document["kind"] in ("ServiceAccount", "Role", "RoleBinding")
        instance = "tuneloop-submitter" if shared else submission.run_id
        assert labels["app.kubernetes.io/instance"] == instance
        if document["kind"] == "Job":
            pod = document["spec"]["template"]["metadata"]["labels"]
            assert "app.kubernetes.io/version" not in pod
