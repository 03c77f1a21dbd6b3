"""A checkpoint's way through the project: added, tuned, evaluated, handed on, and tuned again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun, make_tiny_run
from tests.models.checkpoints import HF_TINY, copy_checkpoint
from tests.training.text.models import model_files
from tuneloop.artifacts.model_manifest import load_model_manifest
from tuneloop.models.add import Request, add_model
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.base_model import find_tuned_model
from tuneloop.runs.planning.plan import Plan, write_run_manifest

LORA = {"kind": "lora", "rank": 4, "alpha": 8}


def tune(tiny: TinyRun, stages: int, **model: str) -> Plan:
    """Run the first stages of a spec whose model is pretrained."""
    plan = tiny.change(train__model={"kind": "pretrained", **model}).plan()
    write_run_manifest(plan)
    run_plan(replace(plan, stages=plan.stages[:stages]))
    return plan


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    """A run whose artifacts hold a small Llama."""
    run = make_tiny_run(tmp_path).change(
        train__steps=2,
        train__max_length_tokens=256,
        train__method=LORA,
        eval__max_new_tokens=4,
    )
    source = copy_checkpoint(tmp_path / "source")
    for name, data in model_files(eos_token="<|im_end|>").items():
        (source / name).write_bytes(data)
    add_model(Request("small-llama", str(source), run.artifacts))
    return run


def test_a_checkpoint_is_tuned_evaluated_handed_on_and_tuned_again(
    run: TinyRun, tuneloop: Invoke, tmp_path: Path
) -> None:
    """One test, because training it once is what takes time."""
    plan = tune(run, 3, model="small-llama")
    check_that_it_is_a_model(run, plan, tuneloop, tmp_path)
    check_that_the_export_can_be_added(run, plan, tmp_path)
    check_that_a_run_goes_on_from_it(run, plan)


def check_that_it_is_a_model(run: TinyRun, plan: Plan, tuneloop: Invoke, tmp_path: Path) -> None:
    at = ("--artifacts", run.artifacts)
    code, out, _ = tuneloop("models", "show", plan.run_id, *at, "--json")
    shown = json.loads(out)
    assert (code, shown["base"], shown["licence"]) == (0, "small-llama", "apache-2.0")
    assert shown["parameters"] == 176_576
    code, out, err = tuneloop("models", "verify", plan.run_id, *at)
    assert code == 0, err
    reference = ("--reference", HF_TINY / "llama31.npz")
    code, out, _ = tuneloop("models", "check", plan.run_id, *at, *reference, "--json")
    result: dict[str, Any] = json.loads(out)
    assert (code, result["passed"]) == (12, False)  # two steps have changed the weights

    code, out, err = tuneloop("models", "export", plan.run_id, tmp_path / "out", *at)
    assert (code, err) == (0, "")
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert 'base_model: "small-llama"' in card
    assert "| all | 10 | " in card
    assert str(run.folder) not in card + (tmp_path / "out" / "manifest.json").read_text()
    code, out, err = tuneloop("models", "export", plan.run_id, tmp_path / "a", *at, "--adapter")
    assert code == 0, err
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def check_that_the_export_can_be_added(run: TinyRun, plan: Plan, tmp_path: Path) -> None:
    found = find_tuned_model(plan.run_id, run.artifacts)
    exported = load_model_manifest(str(tmp_path / "out"))
    assert exported.digest == found.manifest.digest
    added = add_model(Request("again", str(tmp_path / "out"), str(tmp_path / "elsewhere")))
    assert added.digest == found.manifest.digest
    assert added.licence == "apache-2.0"


def check_that_a_run_goes_on_from_it(run: TinyRun, plan: Plan) -> None:
    again = tune(run, 2, run=plan.run_id)
    assert again.run_id != plan.run_id
    first = find_tuned_model(plan.run_id, run.artifacts).manifest
    second = find_tuned_model(again.run_id, run.artifacts).manifest
    assert again.model.name == first.name
    assert second.base == first.name
    assert second.weights_sha256 != first.weights_sha256
    assert second.tokenizer_sha256 == first.tokenizer_sha256
    assert (second.licence, second.random_weights) == ("apache-2.0", False)
