"""The train stage with adapters: from random weights, then with QLoRA from the tuned model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import TinyRun, make_tiny_run
from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainResults
from tuneloop.runs.local import run_plan
from tuneloop.storage import paths
from tuneloop.training.models.hf_layout import CheckpointFiles, open_folder

LORA: dict[str, Any] = {"kind": "lora", "rank": 2, "targets": ["q_proj", "down_proj"]}
QLORA: dict[str, Any] = {"kind": "qlora", "rank": 2, "quantization": "int8", "dropout": 0.1}


def trained(run: TinyRun) -> tuple[str, Record]:
    """Run export and train; returns the run's id and the record of train."""
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:2]))
    record = records.find(run.artifacts, plan.run_id, "train")
    assert record is not None
    return plan.run_id, record


def weights(run: TinyRun, record: Record, folder: str) -> CheckpointFiles:
    file = record.output(f"{folder}/model.safetensors")
    return open_folder(paths.join(run.artifacts, file.path.rpartition("/")[0]))


def changed(before: CheckpointFiles, after: CheckpointFiles) -> set[str]:
    """Names of the tensors that differ, without the number of their block."""
    assert before.tensors.keys() == after.tensors.keys()
    return {
        name.split(".", 3)[-1]
        for name, tensor in before.tensors.items()
        if not np.array_equal(tensor.array(), after.tensors[name].array())
    }


def adapter_config(run: TinyRun, record: Record) -> dict[str, Any]:
    data = records.read_output(record.output("adapter/adapter_config.json"), run.artifacts)
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, str, Record]:
    run = make_tiny_run(tmp_path_factory.mktemp("lora"))
    run = run.change(train__steps=4, train__method=LORA)
    return run, *trained(run)


def test_lora_changes_its_targets_alone_and_writes_an_adapter(
    tuned: tuple[TinyRun, str, Record],
) -> None:
    run, _, record = tuned
    base, model = weights(run, record, "base"), weights(run, record, "model")
    assert changed(base, model) == {"self_attn.q_proj.weight", "mlp.down_proj.weight"}
    config = adapter_config(run, record)
    assert (config["r"], config["target_modules"]) == (2, ["down_proj", "q_proj"])
    names = {file.name for file in record.outputs_like("adapter/")}
    expected = ("README.md", "adapter_config.json", "adapter_model.safetensors")
    assert names == {f"adapter/{name}" for name in expected}
    readers = record.results_as(TrainResults).parity
    assert [each.reader for each in readers] == ["tuneloop", "adapter"]
    assert readers[0].max_difference == 0
    assert readers[1].max_difference <= readers[1].limit


def test_qlora_goes_on_from_a_tuned_model_and_hands_on_unquantized_weights(
    tuned: tuple[TinyRun, str, Record], tmp_path: Path
) -> None:
    run, run_id, record = tuned
    path = tmp_path / "next.yaml"
    path.write_bytes(run.spec_path.read_bytes())
    following = replace(run, folder=tmp_path, spec_path=path).change(
        train__model={"kind": "pretrained", "run": run_id}, train__method=QLORA
    )
    _, after = trained(following)
    before, model = weights(run, record, "model"), weights(following, after, "model")
    adapted = {f"self_attn.{each}_proj.weight" for each in "qkvo"}
    adapted |= {f"mlp.{each}_proj.weight" for each in ("gate", "up", "down")}
    assert changed(before, model) == adapted
    assert len(adapter_config(following, after)["target_modules"]) == 7
    # That the adapter, added to the base, gives the model's weights is checked by the stage itself:
    # merged into quantized weights it would not.
    readers = after.results_as(TrainResults).parity
    assert [each.reader for each in readers] == ["tuneloop", "adapter"]
