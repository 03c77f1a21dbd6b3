"""The train stage with validation, and a second run that continues the first one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun, make_tiny_run
from tests.training.sft.test_tensorboard import read_events
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.progress import read_progress
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainCounts, TrainResults
from tuneloop.errors import InputMissing, SpecError, StageFailed
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.plan import Plan
from tuneloop.runs.planning.train_step import planned_step
from tuneloop.stages.table import STAGES
from tuneloop.storage import files
from tuneloop.training.sft.earlier import check_same_examples, find_earlier_run
from tuneloop.training.sft.tensorboard import EVENTS

VALIDATED: dict[str, Any] = {
    "export__validation_fraction": 0.25,
    "train__validation": {"every_steps": 4, "max_examples": 20},
    "train__optimizer": {"learning_rate": 0.02, "schedule": "constant", "warmup_steps": 1},
}


def trained(run: TinyRun) -> tuple[Plan, Record]:
    """Run export and train; returns the plan and the record of train."""
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:2]))
    record = records.find(run.artifacts, plan.run_id, "train")
    assert record is not None
    return plan, record


def metrics(run: TinyRun, record: Record) -> list[dict[str, Any]]:
    data = records.read_output(record.output("metrics.jsonl"), run.artifacts)
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Plan, Record]:
    run = make_tiny_run(tmp_path_factory.mktemp("first")).change(train__steps=6, **VALIDATED)
    with pytest.MonkeyPatch.context() as patched:
        # As if this CPU were a chip of the accelerator table.
        patched.setenv("TUNELOOP_DEVICE_PEAK_TFLOPS", "0.5")
        return run, *trained(run)


def test_a_record_counts_the_steps_that_a_killed_attempt_has_lost(tiny_run: TinyRun) -> None:
    """The attempt before was killed at step 3; it has left a heartbeat, but no checkpoint."""
    tiny_run.change(train__steps=5)
    prefix = layout.stage_prefix(tiny_run.artifacts, tiny_run.plan().run_id, "train")
    beat = {"updated_at": "2026-11-28T10:00:00+00:00", "step": 3, "total": 5, "repeated_steps": 2}
    files.write(f"{prefix}/progress.json", json.dumps(beat).encode())
    _, record = trained(tiny_run)
    rows = [row["step_seconds"] for row in metrics(tiny_run, record) if row["step"]]
    assert record.work is not None
    assert record.work.repeated_steps == 5
    assert record.work.repeated_seconds == pytest.approx(5 * sorted(rows)[2], abs=0.01)
    assert record.work.useful_seconds == pytest.approx(sum(rows), abs=0.01)
    assert record.work.useful_seconds < record.seconds
    found = read_progress(prefix)
    assert found is not None
    assert (found.step, found.repeated_steps) == (5, 5)


@pytest.fixture
def next_run(first: tuple[TinyRun, Plan, Record], tmp_path: Path) -> TinyRun:
    """A spec beside the first run's, of 10 steps that continue it."""
    run, plan, _ = first
    path = tmp_path / "next.yaml"
    path.write_bytes(run.spec_path.read_bytes())
    changed = replace(run, folder=tmp_path, spec_path=path)
    return changed.change(train__steps=10, train__continue_from=plan.run_id)


def test_validation_is_in_metrics_record_summary_and_event_file(
    first: tuple[TinyRun, Plan, Record],
) -> None:
    run, _, record = first
    rows = metrics(run, record)
    assert [row["step"] for row in rows] == list(range(7))
    found = {row["step"]: row["validation_loss"] for row in rows if row["validation_loss"]}
    assert list(found) == [0, 4, 6]
    counts, results = record.counts_as(TrainCounts), record.results_as(TrainResults)
    assert counts.examples + counts.validation_examples == 104
    assert counts.validation_examples > 15
    assert results.validation_loss_first == found[0]
    assert results.validation_loss_last == found[6]
    assert results.validation_loss_best == found[results.best_step or 0]
    assert counts.kept_step == results.best_step
    assert f"validation {found[0]:.3f} -> " in STAGES["train"].summary(record)
    events = read_events(records.read_output(record.output(EVENTS), run.artifacts))
    points = [value.tag for event in events for value in event.summary.value]
    assert points.count("validation/loss") == 3
    assert points.count("train/loss") == points.count("train/mfu") == 6
    assert all(0 < row["mfu"] < 1 for row in rows[1:])
    assert record.output(EVENTS).has_timings
    assert record.output(EVENTS).path.endswith(EVENTS)


def test_a_process_needs_the_host_memory_that_plan_estimates(
    first: tuple[TinyRun, Plan, Record],
) -> None:
    run, plan, record = first
    found = max(row.get("host_memory_bytes", 0) for row in metrics(run, record))
    # Programs that come from the compilation cache take less: compiling them needs memory.
    assert 0.4 < found / planned_step(plan, None).host.peak_bytes < 1.1


def test_a_run_continues_another_one_with_more_steps(
    first: tuple[TinyRun, Plan, Record], next_run: TinyRun
) -> None:
    run, _, record = first
    token_files = files.list_files(f"{run.artifacts}/tokens")
    plan, continued = trained(next_run)
    assert files.list_files(f"{run.artifacts}/tokens") == token_files  # they were used again
    assert len([each for each in token_files if each.endswith("manifest.json")]) == 2
    counts = continued.counts_as(TrainCounts)
    assert (counts.steps, counts.resumed_from_step, counts.continued_from_step) == (10, 0, 6)
    before, after = metrics(run, record), metrics(next_run, continued)
    own = [row["step_seconds"] for row in after if row["step"] > 6]
    assert continued.work is not None
    assert continued.work.useful_seconds == pytest.approx(sum(own), abs=0.01)
    assert after[: len(before)] == before
    assert [row["step"] for row in after] == list(range(11))
    options = plan.spec.train.model_copy(update={"continue_from": plan.run_id, "steps": 20})
    found = find_earlier_run(options, seed=1, system_instruction=None, artifacts=run.artifacts)
    assert found is not None
    assert found.earlier is not None
    assert (found.step, found.earlier.step) == (10, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__steps": 6}, "train.steps is 6, expected more than the 6 steps of run"),
        ({"train__batch_size": 4, "seed": 9}, "train.batch_size, seed differ from run"),
        ({"system_instruction": "Be kind."}, "system_instruction differ from run"),
    ],
)
def test_other_options_are_refused_by_the_plan(
    change: dict[str, Any], message: str, next_run: TinyRun
) -> None:
    with pytest.raises(SpecError, match=message):
        next_run.change(**change).plan()


def test_a_run_that_is_not_there_is_refused_by_the_plan(next_run: TinyRun) -> None:
    with pytest.raises(InputMissing, match="tiny-none: no finished training"):
        next_run.change(train__continue_from="tiny-none").plan()


def test_other_examples_are_refused_by_the_stage(
    first: tuple[TinyRun, Plan, Record], next_run: TinyRun
) -> None:
    plan = next_run.change(export__validation_fraction=0.3).plan()
    with pytest.raises(StageFailed, match="has read other examples than this run"):
        run_plan(replace(plan, stages=plan.stages[:2]))
    run, _, _ = first
    same = records.find(run.artifacts, first[1].run_id, "export")
    assert same is not None
    check_same_examples(plan.spec.train, same, run.artifacts)


def test_the_run_that_trained_is_found_behind_one_that_adopted_its_record(
    first: tuple[TinyRun, Plan, Record], tmp_path: Path
) -> None:
    run, plan, _ = first
    path = tmp_path / "other.yaml"
    path.write_bytes(run.spec_path.read_bytes())
    adopting = replace(run, spec_path=path).change(eval__max_new_tokens=17)
    adopted, _ = trained(adopting)
    assert adopted.run_id != plan.run_id
    options = adopted.spec.train.model_copy(update={"continue_from": adopted.run_id, "steps": 20})
    found = find_earlier_run(options, seed=1, system_instruction=None, artifacts=run.artifacts)
    assert found is not None
    assert found.step == 6
    assert f"/{plan.run_id}/train/resume" in found.resume_prefix
