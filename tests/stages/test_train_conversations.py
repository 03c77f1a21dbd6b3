"""A model is trained on conversations, packed beside other examples."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.__main__ import main
from tests.builders import letter_trace, make_tiny_run, publish_dataset
from tuneloop.artifacts import records
from tuneloop.artifacts.results import TrainCounts
from tuneloop.specs.stages import dump_stage_spec
from tuneloop.traces.schema import build_trace
from tuneloop.training.export.inspect import iter_examples, token_counts
from tuneloop.training.text.chat_format import load_chat_format

HISTORY = [
    {"role": "user", "content": "Upper: a"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "Upper: b"},
    {"role": "assistant", "content": "B"},
]


def test_the_loss_covers_every_message_of_the_assistant(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    traces = [letter_trace(number) for number in range(8)]
    traces += [
        build_trace(f"Upper: c{number}", [], f"C{number}", messages=HISTORY, system="Be kind")
        for number in range(8)
    ]
    publish_dataset(run.artifacts, traces, dataset_name="own")
    run.change(
        dataset="own-v1",
        export__loss="all_assistant",
        train__steps=2,
        train__batch_size=2,
        train__packing=True,
        train__max_length_tokens=256,
    )
    for stage in run.plan().stages[:2]:
        url = tmp_path / f"{stage.stage}.json"
        url.write_bytes(dump_stage_spec(stage))
        assert main([stage.stage, "--spec", str(url)]) == 0
    record = records.find(run.artifacts, stage.run_id, "train")
    assert record is not None
    counts = record.counts_as(TrainCounts)
    tokenizer = next((tmp_path / "artifacts").rglob("tokenizer.model"))
    chat = load_chat_format({"tokenizer.model": tokenizer.read_bytes()}, place="tuned")
    examples = [each for _, each in iter_examples(str(tmp_path / "artifacts/training_runs"))]
    measured = [
        token_counts(each, chat, stage.model_dump()["system_instruction"]) for each in examples
    ]
    assert counts.examples == len(examples) == 16
    assert counts.trained_tokens == sum(trained for _, trained in measured)
    assert counts.tokens == sum(map(sum, measured))
    metrics = records.read_output(record.outputs_like("metrics")[0], run.artifacts)
    assert all(0 < json.loads(line)["loss"] < 20 for line in metrics.splitlines())
