"""Memory, time and cost of the training step of a plan."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.training.compile.cells import target_named
from tuneloop.errors import SpecError
from tuneloop.runs.planning import train_step
from tuneloop.runs.planning.compilation import NoDevices
from tuneloop.runs.planning.train_step import PlannedStep, check_fits, planned_step, report_step
from tuneloop.specs.training.compilation import CompiledStep, TargetDevices


def step_of(run: TinyRun, accelerator: str | None = "v5e-2x2", **changes: Any) -> PlannedStep:
    target = target_named(accelerator) if accelerator else None
    return planned_step(run.change(**changes).plan(), target)


def compiled(peak_bytes: int, refused: str | None = None) -> CompiledStep:
    return CompiledStep(
        argument_bytes=1,
        peak_bytes=peak_bytes,
        refused=refused,
        lower_seconds=1,
        compile_seconds=1,
        versions={},
    )


def test_an_estimate_costs_a_few_milliseconds(tiny_run: TinyRun) -> None:
    plan, target = tiny_run.plan(), target_named("v5e-2x2")
    since = time.process_time()
    for _ in range(10):
        report_step(planned_step(plan, target), "nowhere")
    assert (time.process_time() - since) / 10 < 0.005


def test_a_run_on_a_cpu_has_memory_but_no_limit_and_no_time(tiny_run: TinyRun) -> None:
    report = report_step(step_of(tiny_run, None), "nowhere", None, 2.0)
    assert (report.platform, report.devices, report.limit_bytes, report.fits) == (
        "cpu",
        1,
        None,
        True,
    )
    assert report.peak_bytes == report.estimate["peak"] > 0
    assert (report.estimate_step_seconds, report.chip_hours, report.cost) == (None, None, None)
    with pytest.raises(SpecError, match="runs on a CPU, expected an accelerator"):
        report_step(step_of(tiny_run, None), "nowhere", 60)


def test_time_and_cost_follow_from_the_chips_figures(tiny_run: TinyRun) -> None:
    report = report_step(step_of(tiny_run), "nowhere", None, 2.0)
    assert report.estimate_step_seconds is not None
    assert report.chip_hours == pytest.approx(12 * report.estimate_step_seconds * 4 / 3600)
    assert report.chip_hours is not None
    assert report.cost == pytest.approx(2 * report.chip_hours)
    assert report.tokens_per_second == pytest.approx(8 * 64 / report.estimate_step_seconds)


def test_epochs_are_counted_in_traces(tiny_run: TinyRun) -> None:
    by_epochs = step_of(tiny_run, train__steps=None, train__epochs=2)
    traces = tiny_run.plan().summary.trace_count
    assert by_epochs.steps == -(-2 * traces // 8)


def test_a_batch_that_does_not_divide_is_refused(tiny_run: TinyRun) -> None:
    with pytest.raises(SpecError, match=r"train.batch_size: 8 rows do not divide evenly among 16"):
        step_of(tiny_run, "v5e-4x4")


def test_a_compiled_step_that_does_not_fit_is_refused(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = step_of(tiny_run)
    assert isinstance(step.target, TargetDevices)
    limit = step.target.chip.limit_bytes

    def answers(found: CompiledStep) -> None:
        monkeypatch.setattr(train_step, "compile_train_step", lambda *_, **__: found)

    answers(compiled(limit))
    check_fits(step, report_step(step, "nowhere", 60))
    answers(compiled(limit + 2**30, refused="RESOURCE_EXHAUSTED"))
    report = report_step(step, "nowhere", 60)
    assert not report.fits
    message = r"needs 16.75 GiB on each device of v5e-2x2, 1.00 GiB more than the 15.75 GiB .*; by"
    with pytest.raises(SpecError, match=message):
        check_fits(step, report)
    check_fits(step, report_step(step, "nowhere"))  # an estimate refuses nothing


def test_without_the_gpus_an_estimate_is_shown(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> CompiledStep:
        raise NoDevices("no GPU here")

    monkeypatch.setattr(train_step, "compile_train_step", missing)
    report = report_step(step_of(tiny_run, "l4-1"), "nowhere", 60)
    assert (report.compiled, report.note) == (False, "no GPU here")
