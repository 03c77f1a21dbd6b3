"""Default memory and deadline by stage, shape, model and number of steps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import TinyRun
from tests.runs.planning.test_prepare import IMAGE
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.planning.plan_table import plan_rows
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.target import Target

GEMMA_1B = {
    "kind": "random",
    "num_layers": 26,
    "embed_dim": 1152,
    "hidden_dim": 6912,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 256,
}
"""Without its vocabulary: 0.7 billion parameters."""
QWEN_7B = {
    "kind": "random",
    "num_layers": 28,
    "embed_dim": 3584,
    "hidden_dim": 18944,
    "num_heads": 28,
    "num_kv_heads": 4,
    "head_dim": 128,
}
DAY = 24


def defaults(run: TinyRun, **changes: Any) -> dict[str, tuple[str | None, float]]:
    """Return stage -> (memory of one pod, deadline in hours)."""
    run.change(**{"execution__cluster__namespace": "n", **changes})
    spec = load_run_spec(str(run.spec_path))
    found = prepare(KubernetesBackend, spec, Target(image=IMAGE))
    return {
        row.name: (row.memory, (row.deadline_seconds or 0) / 3600)
        for row in plan_rows(found.plan, found.backend)
    }


@pytest.mark.parametrize(
    ("model", "accelerator", "steps", "batch", "length", "train"),
    [
        (None, "cpu", 12, 8, 64, ("4Gi", DAY)),
        (None, "v5e-4x4", 12, 16, 64, ("4Gi", 6)),
        (None, "v5e-4x4", 100_000, 16, 64, ("4Gi", 33)),
        (GEMMA_1B, "cpu", 12, 8, 64, ("25Gi", DAY)),
        (GEMMA_1B, "v5e-2x2", 1000, 32, 1024, ("11Gi", 6)),
        (GEMMA_1B, "v5e-4x4", 1000, 32, 1024, ("5Gi", 6)),
        (GEMMA_1B, "v6e-4x4", 1000, 32, 1024, ("5Gi", 6)),
        (GEMMA_1B, "h100-80gb-8", 10_000, 64, 2048, ("11Gi", 8)),
        (QWEN_7B, "v5p-4x4x4", 10_000, 256, 4096, ("8Gi", 49)),
        (QWEN_7B, "h100-80gb-8x4", 1000, 64, 2048, ("23Gi", 6)),
    ],
)
def test_the_train_stage(
    tiny_run: TinyRun,
    model: Any,
    accelerator: str,
    steps: int,
    batch: int,
    length: int,
    train: tuple[str, float],
) -> None:
    if model is not None:
        tiny_run.change(train__model=model)
    found = defaults(
        tiny_run,
        train__steps=steps,
        train__batch_size=batch,
        train__max_length_tokens=length,
        train__dtype="bfloat16",
        execution__cluster__train={"accelerator": accelerator},
    )
    assert found["train"] == train
    assert found["export"] == found["import"] == ("4Gi", 6)


@pytest.mark.parametrize(
    ("model", "accelerator", "tokens", "expected"),
    [
        (None, "cpu", 16, ("4Gi", DAY)),
        (None, "l4-1", 16, ("4Gi", 6)),
        (GEMMA_1B, "cpu", 16, ("7Gi", DAY)),
        (GEMMA_1B, "l4-1", 512, ("4Gi", 6)),
        (QWEN_7B, "cpu", 16, ("55Gi", DAY)),
        (QWEN_7B, "v5e-1x1", 4096, ("4Gi", 7)),
        (QWEN_7B, "h100-80gb-1", 4096, ("4Gi", 6)),
    ],
)
def test_the_eval_stage(
    tiny_run: TinyRun, model: Any, accelerator: str, tokens: int, expected: tuple[str, float]
) -> None:
    if model is not None:
        tiny_run.change(train__model=model)
    found = defaults(
        tiny_run,
        eval__max_new_tokens=tokens,
        execution__cluster__eval={"accelerator": accelerator},
    )
    assert found["eval"] == expected


def test_the_deadline_of_the_eval_stage_counts_all_sets_samples_and_models(
    tiny_run: TinyRun,
) -> None:
    url = load_run_spec(str(tiny_run.spec_path)).eval.eval_set
    tiny_run.change(execution__cluster__eval={"accelerator": "l4-1"}, eval__eval_set=None)

    def deadline(*sets: dict[str, Any], **options: Any) -> float:
        sampled = {"url": url, "samples": 1000, "temperature": 1.0, "max_new_tokens": 4000}
        found = [{**sampled, "name": f"s{n}", **each} for n, each in enumerate(sets)]
        return defaults(tiny_run, eval__sets=found, **options)["eval"][1]

    one = deadline({})
    assert one > 30
    assert deadline({"samples": 500}) == pytest.approx(one / 2, rel=0.05)
    assert deadline({}, {}) == pytest.approx(2 * one, rel=0.05)
    assert deadline({}, {"instruction": False}, eval__base_examples=2) == pytest.approx(
        2.5 * one, rel=0.05
    )


def test_what_a_spec_states_is_kept_and_longer_waits_count(tiny_run: TinyRun) -> None:
    found = defaults(
        tiny_run,
        execution__cluster__export={"deadline_seconds": 60, "memory": "200Mi"},
        execution__cluster__import={"attempt_deadline_seconds": 90_000},
        execution__cluster__timeouts={"provisioning_seconds": 86_400},
        execution__cluster__train={"accelerator": "v5e-2x2"},
    )
    assert found == {
        "export": ("200Mi", 60 / 3600),
        "train": ("4Gi", 29),
        "eval": ("4Gi", DAY),
        "import": ("4Gi", 29),
    }


def test_flex_start_keeps_machines_for_a_week(tiny_run: TinyRun) -> None:
    train = {"accelerator": "v5e-2x2", "flex_start": True}
    found = defaults(tiny_run, train__steps=10_000_000, execution__cluster__train=train)
    assert found["train"][1] == 7 * 24 - 1


def test_more_pods_share_the_work_of_a_large_dataset(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneloop.runs.cost.needs.TRACES_PER_SECOND", 0.01)  # as if it had millions
    one = defaults(tiny_run)["export"][1]
    ten = defaults(tiny_run, execution__cluster__export={"shard_count": 10})["export"][1]
    assert (one, ten) == (35, 9)


def test_defaults_change_no_fingerprint(tiny_run: TinyRun) -> None:
    before = tiny_run.plan()
    defaults(tiny_run, execution__cluster__train={"accelerator": "v5e-2x2"})
    assert tiny_run.plan().run_id == before.run_id


def test_a_plan_shows_them(tiny_run: TinyRun, tuneloop: Any) -> None:
    defaults(tiny_run)
    code, out, err = tuneloop("plan", tiny_run.spec_path, "--image", IMAGE)
    assert code == 0, err
    header, export, *_ = (line.split() for line in out.splitlines()[2:])
    assert header[-2:] == ["memory", "deadline"]
    assert export[-3:] == ["4Gi", "6", "h"]
