"""What a sink is sent, without a server; and the message about the missing package."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.builders import stage_specs
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, RunManifest
from tuneloop.errors import UsageError
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.stages.sink.facts import PARAMETER_CHARACTERS, build_facts
from tuneloop.stages.sink.mlflow_run import check_installed
from tuneloop.stages.sink.points import Point, points_of_evaluation, points_of_file

SINK = MetricsSinkSpec(kind="mlflow", url="http://h")


def manifest(spec: dict[str, Any]) -> RunManifest:
    dataset = DatasetOfRun(key="demo-v1", build_id="b", trace_count=1)
    return RunManifest(run_id="demo-1", spec=spec, seed=3, dataset=dataset, stages={})


def test_a_file_of_metrics_is_read_with_the_times_of_its_steps() -> None:
    rows = [
        {"step": 0, "validation_loss": 5.0},
        {"step": 1, "loss": 4.0, "mfu": None, "step_seconds": 2.0},
        {"step": 2, "loss": float("1e308"), "step_seconds": 0.5, "validation_loss": 3.0, "new": 1},
    ]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    assert points_of_file(data, 10_000) == [
        Point("validation/loss", 0, 5.0, 7_500),
        Point("train/loss", 1, 4.0, 9_500),
        Point("time/step_seconds", 1, 2.0, 9_500),
        Point("train/loss", 2, 1e308, 10_000),
        Point("time/step_seconds", 2, 0.5, 10_000),
        Point("validation/loss", 2, 3.0, 10_000),
    ]
    assert points_of_file(b"", 10_000) == []


def test_the_figures_of_an_evaluation_are_those_of_its_record() -> None:
    counts = {name: 4 for name in ("items", "base_correct", "base_no_answer", "regressions")}
    counts |= {"tuned_correct": 3, "tuned_no_answer": 0, "guard_base_correct": 8, "guard_kept": 6}
    results = {"accuracy_base": 0.25, "accuracy_tuned": 0.75, "by_category": {}, "verdict": "x"}
    record = Record(
        run_id="r",
        stage="eval",
        fingerprint="f",
        attempt="a",
        inputs={},
        outputs=(),
        counts=counts,
        results=results,
        started_at="1970-01-01T00:00:01+00:00",
        seconds=2.5,
        provenance={},
    )
    found = {point.curve: point.value for point in points_of_evaluation(record)}
    assert found == {
        "eval/accuracy_base": 0.25,
        "eval/accuracy_tuned": 0.75,
        "eval/accuracy_gain": 0.5,
        "eval/items": 4,
        "eval/regressions": 4,
        "eval/guard_kept": 0.75,
    }
    assert {point.at_ms for point in points_of_evaluation(record)} == {3500}


def test_parameters_are_the_run_spec_without_its_execution() -> None:
    spec = {
        "name": "demo",
        "train": {"steps": 5, "model": {"kind": "random"}, "epochs": None},
        "execution": {"artifacts": "gs://secret-place"},
        "system_instruction": "ü🟡" * 5000,
        "list": ["a", 1],
    }
    found = build_facts(stage_specs()["train"], manifest(spec), {}).parameters
    assert found == {
        "train.steps": "5",
        "train.model.kind": "random",
        "train.epochs": "null",
        "system_instruction": ("ü🟡" * 5000)[: PARAMETER_CHARACTERS - 1] + "…",
        "list": '["a", 1]',
        "seed": "3",
        "dataset": "demo-v1",
    }


def test_runs_of_one_id_at_two_places_are_two_runs_of_the_server() -> None:
    one = stage_specs()["train"]
    execution = one.execution.model_copy(update={"artifacts": 'gs://other/it\'s "quoted" 🟡'})
    other = one.model_copy(update={"execution": execution})
    assert build_facts(one, None, {}).source_id != build_facts(other, None, {}).source_id
    same = build_facts(stage_specs()["eval"], None, {})
    assert build_facts(one, None, {}).source_id == same.source_id


def test_a_missing_package_is_one_sentence_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"module mlflow is not installed.*the mlflow extra"):
        check_installed(SINK)
    check_installed(None)
