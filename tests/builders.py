"""Small real inputs that many tests share: traces, a dataset, an eval set and a run."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tuneloop import jsonl
from tuneloop.datasets.build import SHARD_ROWS, build
from tuneloop.datasets.read import iter_rows, load_manifest
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, Selection, TraceRow
from tuneloop.runs.planning.plan import Plan, load_plan
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.run import ExecutionSpec
from tuneloop.specs.stages import (
    DatasetRef,
    EvalSetRef,
    EvalStage,
    ExportStage,
    ImportStage,
    StageSpec,
    TrainStage,
)
from tuneloop.specs.training.train import TrainSpec
from tuneloop.traces.schema import utc_text

Invoke = Callable[..., tuple[int, str, str]]
"""Type of the fixture `tuneloop`, which runs a verb and returns (exit code, stdout, stderr)."""

REPOSITORY = Path(__file__).resolve().parent.parent

TINY_MODEL = {
    "kind": "random",
    "num_layers": 1,
    "embed_dim": 16,
    "hidden_dim": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "sliding_window_tokens": 32,
}

METHODS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"rank": 4, "dropout": 0.1}}
"""Kind of a training method -> options for a tiny model."""


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of a process with this number of CPU devices, with the flags of all tests."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


TINY_SPEC = {
    "name": "tiny",
    "dataset": "letters-v1",
    "seed": 1,
    "train": {
        "model": TINY_MODEL,
        "tokenizer": {"vocab_size": 300},
        "optimizer": {"learning_rate": 0.02},
        "steps": 12,
        "batch_size": 8,
        "max_length_tokens": 64,
    },
    "eval": {"eval_set": "", "batch_size": 8, "max_new_tokens": 16},
    "execution": {"checkpoint_every_steps": 4},
}
"""Return the model spec and batch shape of a run that takes seconds; equal shapes compile once."""


def letter_trace(number: int) -> dict[str, Any]:
    """Build a small trace that upper-cases one letter; there are 26 prompts per word."""
    word = ("red", "blué", "绿", "🟡")[number // 26 % 4]
    letter = chr(ord("a") + number % 26)
    return {
        "trace_version": "1.0",
        "prompt": f"Upper: {word} {letter}",
        "final_answer": letter.upper(),
        "steps": [{"i": 0, "type": "reason", "content": f"{letter} -> {letter.upper()}"}],
        "meta": {"source": "test", "number": number},
    }


def stored_row(
    folder: Path, trace: dict[str, Any], **request: Any
) -> tuple[TraceRow, DatasetManifest]:
    """Publish a dataset of one trace; returns its row and its manifest."""
    key = publish_dataset(str(folder), [trace], **request)
    manifest = load_manifest(str(folder), key)
    ((_, row),) = iter_rows(manifest, str(folder))
    return row, manifest


def meta_of(row: TraceRow) -> dict[str, Any]:
    """Return a row's meta as Python values; empty if it has none."""
    return {key: msgspec.json.decode(value) for key, value in (row.meta or {}).items()}


def make_row(value: dict[str, Any]) -> TraceRow:
    """Decode the row on a line."""
    return msgspec.json.decode(jsonl.dump_line(value), type=TraceRow)


def publish_dataset(
    artifacts: str, traces: Sequence[dict[str, Any]], shard_rows: int = SHARD_ROWS, **request: Any
) -> str:
    """Build dataset `letters-v1` from these traces without a store; returns its key."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    rows = [
        make_row(
            {
                **trace,
                "steps": sorted(trace["steps"], key=lambda step: step["i"]),
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number}/{trace['prompt']}")),
                "created_at": utc_text(now),
            }
        )
        for number, trace in enumerate(traces)
    ]
    asked = {"dataset_name": "letters", "dataset_version": "v1", "seed": 7, **request}
    manifest, _ = build(
        lambda seed: contextlib.nullcontext(Selection(len(rows), iter(rows))),
        BuildRequest(**asked),
        artifacts,
        now=now,
        new_seed=lambda: 7,
        shard_rows=shard_rows,
    )
    return manifest.dataset_key


def steps_done(stage_prefix: Path) -> int:
    """Return the steps that a stage has reported; 0 also while it only says that it is alive."""
    path = stage_prefix / "progress.json"
    return int(json.loads(path.read_bytes()).get("step", 0)) if path.exists() else 0


def write_eval_set(path: Path, count: int = 10) -> None:
    """Write an eval set of the same task, with words that no trace contains."""
    with path.open("wb") as file:
        for number in range(count):
            letter = chr(ord("a") + number % 26)
            item = {
                "id": f"letter-{number}",
                "prompt": f"Upper: green {letter}",
                "expected_answer": letter.upper(),
                "category": ("even", "odd")[number % 2],
                "difficulty": "easy",
                "case_sensitive": True,
            }
            file.write(json.dumps(item).encode() + b"\n")


@dataclass(frozen=True)
class TinyRun:
    """A dataset, an eval set and a run spec in their own folder."""

    folder: Path
    artifacts: str
    spec_path: Path

    def change(self, **changes: Any) -> TinyRun:
        """Rewrite the spec with values for keys like `train__steps=3`."""
        value = yaml.safe_load(self.spec_path.read_text())
        for dotted, new in changes.items():
            *path, last = dotted.split("__")
            inner = value
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = new
        self.spec_path.write_text(yaml.safe_dump(value))
        return self

    def plan(self) -> Plan:
        """Plan the run with the code of this checkout."""
        return load_plan(load_run_spec(str(self.spec_path)))


def make_tiny_run(folder: Path) -> TinyRun:
    """Create a dataset of 104 letter traces, and a spec that trains on it in seconds."""
    run = tiny_run_in(folder)
    publish_dataset(run.artifacts, [letter_trace(number) for number in range(104)])
    write_eval_set(folder / "eval.jsonl")
    run.spec_path.write_text(yaml.safe_dump(TINY_SPEC))
    return run.change(eval__eval_set=str(folder / "eval.jsonl"), execution__artifacts=run.artifacts)


def tiny_run_in(folder: Path) -> TinyRun:
    """Return the tiny run that `make_tiny_run` has created in a folder."""
    return TinyRun(folder, str(folder / "artifacts"), folder / "run.yaml")


DEMO_SET = EvalSetRef(
    name="demo_v1",
    url="eval/demo_v1.jsonl",
    sha256="e" * 64,
    prompts_sha256="f" * 64,
    items=36,
)
"""The eval set of `stage_specs`."""


def stage_specs(run_name: str = "demo") -> dict[str, StageSpec]:
    """Build the four stage specs of one run, with fingerprints that YAML parsers can misread."""
    fingerprints = {
        "export": "1e3" + "0" * 61,
        "train": "0" * 64,
        "eval": "a" * 64,
        "import": "9" * 64,
    }
    common: dict[str, Any] = {
        "run_id": f"{run_name}-12345e67",
        "seed": 3,
        "dataset": DatasetRef(key="demo-v1", build_id="b", recipe="trace_sft_v1", instruction=None),
        "execution": ExecutionSpec(artifacts="gs://bucket/artifacts"),
    }

    def of(stage: str, *upstream: str) -> dict[str, Any]:
        return {
            **common,
            "fingerprint": fingerprints[stage],
            "upstream": {name: fingerprints[name] for name in upstream},
        }

    return {
        "export": ExportStage(
            **of("export"),
            options=ExportSpec(),
            eval_sets=(DEMO_SET,),
            tokenizer_sha256=None,
            system_instruction=None,
        ),
        "train": TrainStage(
            **of("train", "export"),
            options=TrainSpec(steps=50, batch_size=64, max_length_tokens=56),
            system_instruction="on\nyes: 1e3\n<end_of_turn>",
        ),
        "eval": EvalStage(
            **of("eval", "train"),
            options=EvalSpec(eval_set="eval/demo_v1.jsonl"),
            eval_sets=(DEMO_SET,),
            system_instruction=None,
        ),
        "import": ImportStage(**of("import", "eval"), options=ImportSpec()),
    }
