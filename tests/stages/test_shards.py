"""Stages that several processes share: the same bytes for any number of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from tests.builders import TinyRun, make_tiny_run, write_eval_set
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.stages import EvalStage, StageSpec, dump_stage_spec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.stages.evaluation import stopping
from tuneloop.stages.models import evaluated, in_memory
from tuneloop.storage import files
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.loading import load_model


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Plan]:
    """A run on one process, until its evaluation: 11 files of examples, 8 batches of prompts."""
    folder = tmp_path_factory.mktemp("whole")
    write_eval_set(folder / "guard.jsonl", 3)
    run = make_tiny_run(folder).change(
        export__shard_examples=10,
        train__steps=2,
        eval__base_examples=2,
        eval__eval_set=None,
        eval__sets=[
            {"url": str(folder / "eval.jsonl")},
            {
                "url": str(folder / "guard.jsonl"),
                "weight": "guarded",
                "scorer": "contains_answer",
                "instruction": False,
                "samples": 2,
                "temperature": 0.7,
                "max_new_tokens": 8,
            },
        ],
    )
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:3]))
    return run, plan


@pytest.fixture
def again(done: tuple[TinyRun, Plan], tmp_path: Path) -> Any:
    """Take one stage back, in a copy; returns (its spec's URL, its spec, the record it had)."""
    run, plan = done

    def rewind(number: int) -> tuple[str, StageSpec, Record]:
        artifacts = str(tmp_path / "artifacts")
        shutil.copytree(run.artifacts, artifacts)
        stage = plan.stages[number]
        whole = records.find(artifacts, plan.run_id, stage.stage)
        assert whole is not None
        shutil.rmtree(layout.stage_prefix(artifacts, plan.run_id, stage.stage))
        Path(layout.pointer_url(artifacts, stage.fingerprint)).unlink()
        execution = stage.execution.model_copy(update={"artifacts": artifacts})
        spec = stage.model_copy(update={"execution": execution})
        url = tmp_path / "spec.json"
        url.write_bytes(dump_stage_spec(spec))
        return str(url), spec, whole

    return rewind


def work(url: str, stage: str, index: int, count: int) -> int:
    return main([stage, "--spec", url, "--index", str(index), "--count", str(count)])


def record_of(spec: StageSpec) -> Record | None:
    return records.find(spec.execution.artifacts, spec.run_id, spec.stage)


@pytest.mark.parametrize("count", [2, 3, 16])
def test_export_is_the_same_for_any_number_of_processes(again: Any, count: int) -> None:
    url, spec, whole = again(0)
    order = [*range(1, count), 0]
    for index in order[:-1]:
        assert work(url, "export", index, count) == 0
        assert record_of(spec) is None
    assert work(url, "export", order[-1], count) == 0
    merged = record_of(spec)
    assert merged is not None
    assert merged.content() == whole.content()
    assert list(merged.content()) == list(whole.content())
    assert (merged.counts, merged.results) == (whole.counts, whole.results)
    for file in merged.outputs:
        records.read_output(file, spec.execution.artifacts)
    assert records.find_cached(spec.execution.artifacts, spec.fingerprint, spec.stage) == merged


def test_eval_is_the_same_for_any_number_of_processes(again: Any) -> None:
    url, spec, whole = again(2)
    folder = Path(spec.execution.artifacts, "eval_answers")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    for index in range(3):  # the second has batches of both models
        assert work(url, "eval", index, 3) == 0
    merged = record_of(spec)
    assert merged is not None
    assert merged.content() == whole.content()
    assert (merged.counts, merged.results) == (whole.counts, whole.results)
    assert whole.counts["guard_items"] == 3
    assert whole.results["by_base_examples"].keys() == {"0", "2"}
    # Base, base with examples, and base on the guard set; from three processes as from one.
    assert len(kept) == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_killed_between_part_and_merge_the_next_try_merges(again: Any) -> None:
    url, spec, whole = again(0)
    for index in range(2):
        assert work(url, "export", index, 2) == 0
    prefix = Path(layout.stage_prefix(spec.execution.artifacts, spec.run_id, "export"))
    (prefix / "record.json").unlink()
    Path(layout.pointer_url(spec.execution.artifacts, spec.fingerprint)).unlink()
    parts = {path: path.read_bytes() for path in prefix.glob("record-*.json")}
    assert [path.name for path in sorted(parts)] == [
        *("record-00000-of-00002.json", "record-00001-of-00002.json")
    ]
    assert work(url, "export", 0, 2) == 0
    merged = record_of(spec)
    assert merged is not None
    assert merged.content() == whole.content()
    assert {path: path.read_bytes() for path in prefix.glob("record-*.json")} == parts
    assert {path.name for path in prefix.glob("log*")} == {
        *("log-00000-of-00002.txt", "log-00001-of-00002.txt")
    }


def test_a_lost_part_is_missed_by_the_merge(again: Any) -> None:
    url, spec, _ = again(0)
    assert work(url, "export", 0, 2) == 0
    prefix = Path(layout.stage_prefix(spec.execution.artifacts, spec.run_id, "export"))
    path = prefix / "record-00000-of-00002.json"
    part = Record.model_validate_json(path.read_bytes())
    forged = {**part.counts, "traces": part.counts["traces"] - 1}
    path.write_text(part.model_copy(update={"counts": forged}).model_dump_json())
    assert work(url, "export", 1, 2) == 65
    assert record_of(spec) is None


@pytest.mark.parametrize(
    ("stage", "index", "count"), [("export", 2, 2), ("export", -1, 2), ("train", 0, 2)]
)
def test_what_cannot_be_shared_is_a_usage_error(
    stage: str, index: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        work("spec.json", stage, index, count)
    assert caught.value.code == 2
    assert "expected 0 to" in (said := capsys.readouterr().err) or "share work; remove it" in said


def test_an_evaluation_that_may_stop_early_asks_in_chunks_and_gives_the_same_answers(
    again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping.chunks_of, "__defaults__", (4,))
    url, spec, _ = again(2)
    artifacts = spec.execution.artifacts
    assert isinstance(spec, EvalStage)
    options = spec.options.model_copy(update={"stop_early": True})
    spec = spec.model_copy(update={"options": options, "fingerprint": "5" * 64})
    files.write(url, dump_stage_spec(spec))
    assert work(url, "eval", 0, 3) == 78

    copied = Path(artifacts, "training_runs", spec.run_id, "samples.jsonl")
    expected: list[Any] = [json.loads(line) for line in copied.read_bytes().splitlines()]
    assert work(url, "eval", 0, 1) == 0
    first = record_of(spec)
    assert first is not None and first.counts["not_asked"] == 0  # nothing could be decided
    found = [json.loads(line) for line in copied.read_bytes().splitlines()]
    assert found[0].pop("stopping")["asked"] == 10
    places = {row["id"]: row.pop("order") for row in found if "order" in row}
    assert sorted(places.values()) == list(range(10))
    assert found == expected
    # The answers of the base that the whole evaluation kept were used; without them, parts are.
    folder = Path(artifacts, "eval_answers")
    assert len(list(folder.iterdir())) == 3
    shutil.rmtree(folder)
    loads: list[CheckpointFiles] = []

    def counted(weights: CheckpointFiles, architecture: Architecture) -> Any:
        loads.append(weights)
        return load_model(weights, architecture)

    monkeypatch.setattr(evaluated, "load_model", counted)
    for limit, times in ((float("inf"), 2), (0, 3)):
        # Both models stay in memory. Then there is room for one, and the base's answers are known.
        monkeypatch.setattr(in_memory, "host_limit_bytes", lambda limit=limit: limit)
        loads.clear()
        shutil.rmtree(layout.stage_prefix(artifacts, spec.run_id, "eval"))
        Path(layout.pointer_url(artifacts, spec.fingerprint)).unlink()
        assert work(url, "eval", 0, 1) == 0
        assert len(loads) == times
        second = record_of(spec)
        assert second is not None and second.content() == first.content()
        assert len(list(folder.iterdir())) == 7  # three parts for each prompt, and the guard set
