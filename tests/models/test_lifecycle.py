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
from tuneloop.runs.base_model import find_tuned_model
from tuneloop.runs.local import run_plan
from tuneloop.runs.plan import Plan, write_run_manifest

LORA = {"kind": "lora", "rank": 4, "alpha": 8}


def tune(tiny: TinyRun, stages: int, **model: str) -> Plan:
    """Run the first stages of a spec whose model is pretrained."""
    plan = tiny.change(train__model={"kind": "pretrained", **model}).plan()
    write_run_manifest(plan)
    run_plan(replace(plan, stages=plan.stages[:stages]))
    return plan


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Plan]:
    """A small Llama, tuned with LoRA and evaluated."""
    folder = tmp_path_factory.mktemp("lifecycle")
    run = make_tiny_run(folder).change(
        train__steps=2,
        train__max_length_tokens=256,
        train__method=LORA,
        eval__max_new_tokens=4,
    )
    source = copy_checkpoint(folder / "source")
    for name, data in model_files(eos_token="<|im_end|>").items():
        (source / name).write_bytes(data)
    add_model(Request("small-llama", str(source), run.artifacts))
    return run, tune(run, 3, model="small-llama")


def test_a_tuned_model_is_a_model(
    tuned: tuple[TinyRun, Plan], tuneloop: Invoke, tmp_path: Path
) -> None:
    run, plan = tuned
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


def test_an_exported_folder_can_be_added_again(
    tuned: tuple[TinyRun, Plan], tuneloop: Invoke, tmp_path: Path
) -> None:
    run, plan = tuned
    at = ("--artifacts", run.artifacts)
    assert tuneloop("models", "export", plan.run_id, tmp_path / "out", *at)[0] == 0
    found = find_tuned_model(plan.run_id, run.artifacts)
    exported = load_model_manifest(str(tmp_path / "out"))
    assert exported.digest == found.manifest.digest
    added = add_model(Request("again", str(tmp_path / "out"), str(tmp_path / "artifacts")))
    assert added.digest == found.manifest.digest
    assert added.licence == "apache-2.0"


def test_a_run_goes_on_from_a_tuned_model(tuned: tuple[TinyRun, Plan]) -> None:
    run, plan = tuned
    again = tune(run, 2, run=plan.run_id)
    assert again.run_id != plan.run_id
    first = find_tuned_model(plan.run_id, run.artifacts).manifest
    second = find_tuned_model(again.run_id, run.artifacts).manifest
    assert again.model.name == first.name
    assert second.base == first.name
    assert second.weights_sha256 != first.weights_sha256
    assert second.tokenizer_sha256 == first.tokenizer_sha256
    assert (second.licence, second.random_weights) == ("apache-2.0", False)
