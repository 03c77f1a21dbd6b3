from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tuneloop.artifacts.runs.submission import load_submission, save_submission
from tuneloop.errors import SpecError
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.checks.base_model import check_host_memory
from tuneloop.runs.local import LocalBackend
from tuneloop.runs.planning.plan_table import plan_rows
from tuneloop.runs.planning.prepare import Prepared, prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.target import Target

DIGEST = "sha256:" + "1e3" + "0" * 61
IMAGE = f"registry.example/tuneloop@{DIGEST}"


def prepared(
    run: TinyRun, repository: Path, image: str | None = IMAGE, **how: Any
) -> Prepared[KubernetesBackend]:
    target = Target(image=image, **how)
    return prepare(KubernetesBackend, load_run_spec(str(run.spec_path)), target)


def test_the_image_names_the_code_whatever_the_checkout(
    tiny_run: TinyRun, repository: Path
) -> None:
    tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    by_spec, by_option = (prepared(tiny_run, repository, image) for image in (None, IMAGE))
    assert by_spec.plan.run_id == by_option.plan.run_id != tiny_run.plan().run_id
    tagged = "registry.example/tuneloop:v1"
    with pytest.raises(SpecError, match="pass --allow-tag"):
        prepared(tiny_run, repository, tagged)
    assert prepared(tiny_run, repository, tagged, allow_tag=True).plan.run_id != (
        by_spec.plan.run_id
    )


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (None, "execution.cluster is missing, expected at least a namespace"),
        ({"namespace": "n"}, "no image, expected REPOSITORY@sha256:DIGEST"),
    ],
)
def test_what_is_missing_is_said(
    tiny_run: TinyRun, repository: Path, cluster: Any, message: str
) -> None:
    tiny_run.change(execution__cluster=cluster)
    with pytest.raises(SpecError, match=message):
        prepared(tiny_run, repository, None)


def test_a_run_that_could_hold_more_chip_hours_than_allowed_is_refused(
    tiny_run: TinyRun, repository: Path
) -> None:
    train = {"accelerator": "v5e-4x4", "slices": 2, "deadline_seconds": 7200}
    tiny_run.change(
        execution__cluster={"namespace": "n", "train": train, "budget_chip_hours": 63.9},
        train__batch_size=32,
    )
    with pytest.raises(SpecError, match=r"could use 64 chip-hours .* allows 63\.9"):
        prepared(tiny_run, repository)
    tiny_run.change(execution__cluster__budget_chip_hours=64)
    prepared(tiny_run, repository)


def test_train_and_eval_request_the_memory_that_they_are_estimated_to_need(
    tiny_run: TinyRun, repository: Path
) -> None:
    """A model of 0.7 billion parameters needs more than the default; what a spec states is kept."""

    def memory() -> dict[str, str]:
        found = prepared(tiny_run, repository).backend.submission
        return {
            stage.name: stage.workload["spec"]["template"]["spec"]["containers"][0]["resources"][
                "requests"
            ]["memory"]
            for stage in found.stages
        }

    tiny_run.change(execution__cluster={"namespace": "n"})
    assert set(memory().values()) == {"4Gi"}
    large = {"num_layers": 26, "embed_dim": 1152, "hidden_dim": 6912, "num_heads": 4}
    tiny_run.change(train__model={"kind": "random", **large})
    plan = prepared(tiny_run, repository).plan
    needed = plan.needs({})["train"].memory_bytes
    assert needed is not None
    assert needed > 8 * 2**30
    found = memory()
    assert needed <= int(found.pop("train").removesuffix("Gi")) * 2**30 <= 1.2 * needed
    evaluated = int(found.pop("eval").removesuffix("Gi"))
    assert 4 * 700e6 < evaluated * 2**30 < needed
    assert set(found.values()) == {"4Gi"}
    assert check_host_memory(needed, plan.spec.execution) == []
    tiny_run.change(execution__cluster__train={"memory": "6Gi"})
    assert memory()["train"] == "6Gi"
    (finding,) = check_host_memory(needed, prepared(tiny_run, repository).plan.spec.execution)
    assert "is 6Gi, but a pod needs about" in finding.message


def test_a_stage_that_cannot_share_work_has_no_shards(tiny_run: TinyRun, repository: Path) -> None:
    tiny_run.change(execution__cluster={"namespace": "n", "train": {"shard_count": 2}})
    with pytest.raises(
        SpecError, match=r"expected 1, because only export, eval, .* share their work"
    ):
        prepared(tiny_run, repository)


def test_the_rows_of_a_plan_name_machines(tiny_run: TinyRun, repository: Path) -> None:
    tiny_run.change(
        execution__cluster={
            "namespace": "n",
            "export": {"shard_count": 16},
            "train": {"accelerator": "v5e-4x4", "slices": 2},
            "eval": {"accelerator": "l4-1", "shard_count": 4},
        },
        train__batch_size=32,
    )
    found = prepared(tiny_run, repository)
    rows = plan_rows(found.plan, found.backend)
    assert [(r.name, r.where, r.accelerator, r.hosts, r.chips) for r in rows] == [
        ("export", "n", "cpu", 16, 0),
        ("train", "n", "v5e-4x4", 8, 32),
        ("eval", "n", "l4-1", 4, 4),
        ("import", "n", "cpu", 1, 0),
    ]
    assert {row.where for row in plan_rows(found.plan, LocalBackend(found.plan))} == {"local"}


def test_a_submission_reads_back_as_it_was(tiny_run: TinyRun, repository: Path) -> None:
    tiny_run.change(
        execution__cluster={"namespace": "n", "train": {"accelerator": "v5e-4x4"}},
        train__batch_size=16,
        system_instruction="on\nيمين 🟡 <end_of_turn>",
    )
    found = prepared(tiny_run, repository)
    submission = found.backend.submission
    save_submission(submission)
    read = load_submission(submission.artifacts, submission.run_id)
    assert read == submission
    assert [stage.workload["kind"] for stage in read.stages] == ["Job", "JobSet", "Job", "Job"]
    assert [d["kind"] for d in read.submitter] == [
        *("ServiceAccount", "Role", "RoleBinding", "Job")
    ]
