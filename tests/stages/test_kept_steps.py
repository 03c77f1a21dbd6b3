"""Weights of steps before the end of a training: published, and asked by the evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.builders import make_tiny_run
from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.delta_report import load_report
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainResults
from tuneloop.evaluation.gates.ledger import attempts
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.models.evaluated import _open_checkpoint, _open_output
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.parameters import live_params

LORA = {"kind": "lora", "rank": 2, "alpha": 4.0}
CONSTANT = {"kind": "adamw", "learning_rate": 0.01, "schedule": "constant", "warmup_ratio": 0.0}


def record_of(artifacts: str, plan: Plan, stage: str) -> Record:
    found = records.find(artifacts, plan.run_id, stage)
    assert found is not None
    return found


def test_whole_models_of_kept_steps_are_outputs(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path).change(train__steps=3, train__keep_checkpoints=[1, 2])
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:2]))
    record, stage = record_of(run.artifacts, plan, "train"), _StageOf(run.artifacts, plan)
    kept = record.results_as(TrainResults).checkpoints
    folders = [f"checkpoints/{step}" for step in kept]
    opened = [_open_output(record, name, cast("Any", stage)) for name in (*folders, "model")]
    assert [each.manifest.digest for each in opened[:2]] == [kept[1], kept[2]]
    weights = [live_params(load_model(each.weights, each.manifest.architecture)) for each in opened]
    name = next(iter(weights[0]))
    assert len({np.asarray(each[name]).tobytes() for each in weights}) == 3


def test_an_adapter_of_a_kept_step_is_what_a_shorter_training_ends_with(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path).change(
        train__method=LORA, train__optimizer=CONSTANT, train__steps=2
    )
    short = run.plan()
    run_plan(replace(short, stages=short.stages[:2]))
    run.change(train__steps=3, train__keep_checkpoints=[1, 2], eval__checkpoints="all")
    long = run.plan()
    run_plan(replace(long, stages=long.stages[:3]))
    before, after = (record_of(run.artifacts, each, "train") for each in (short, long))
    kept = after.results_as(TrainResults).checkpoints
    assert kept.keys() == {1, 2} and len({*kept.values()}) == 2
    names = {file.name for file in after.outputs if file.name.startswith("checkpoints/2/")}
    adapter = "checkpoints/2/adapter_model.safetensors"
    assert adapter in names and not any("/model" in name for name in names)  # adapters alone
    assert after.output(adapter).sha256 == before.output("adapter/adapter_model.safetensors").sha256
    _check_evaluation(run.artifacts, short, long, kept)


def _check_evaluation(artifacts: str, short: Plan, long: Plan, kept: dict[int, str]) -> None:
    """The base with the adapter of step 2 is the merged model of the shorter training."""
    stage = cast("Any", _StageOf(artifacts, long))
    spec = next(each for each in long.stages if isinstance(each, EvalStage))
    train, shorter = stage.upstream("train"), record_of(artifacts, short, "train")
    base, tuned = _open_output(train, "base", stage), _open_output(shorter, "model", stage)
    found = live_params(_open_checkpoint(2, base, tuned, spec, stage).load())
    expected = live_params(load_model(tuned.weights, tuned.manifest.architecture))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)
    record = record_of(artifacts, long, "eval")
    report = load_report(
        records.read_output(record.output("delta_report.json"), artifacts), "report"
    )
    assert [each.name for each in report.models] == ["base", "step 1", "step 2", "tuned"]
    assert [each.step for each in report.models] == [None, 1, 2, None]
    page = records.read_output(record.output("delta_report.html"), artifacts).decode()
    assert "Accuracy by step" in page
    tried = attempts(artifacts, base=report.models[0].digest, eval_set=report.sets[0].sha256)
    assert [each.candidate for each in tried] == [report.models[3].digest, kept[1], kept[2]]


class _StageOf:
    """What the functions that open models need of a stage."""

    def __init__(self, artifacts: str, plan: Plan) -> None:
        self.artifacts, self._plan = artifacts, plan

    def upstream(self, name: str) -> Record:
        return record_of(self.artifacts, self._plan, name)
