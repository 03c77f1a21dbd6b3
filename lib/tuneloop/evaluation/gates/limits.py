"""Limits: minimum results that a run's delta report must show."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts.evaluation.delta_report import DeltaReport, Guard


@dataclass(frozen=True)
class Gate:
    """Limits for a delta report; None sets no limit."""

    min_accuracy: float | None = None
    """Minimum accuracy of the tuned model, from 0 to 1."""
    min_gain: float | None = None
    """Minimum accuracy gain (tuned - base), from -1 to 1; 0 means no regression is allowed."""
    max_regressions: int | None = None
    """Maximum number of items that only the base model answers correctly."""
    min_gain_low: float | None = None
    """Minimum lower end of the gain's 95 % interval, from -1 to 1."""
    min_guard_kept: float | None = None
    """Minimum share, from 0 to 1, of the guarded questions that the base model answers correctly
    that the tuned model must answer correctly too."""
    max_errors: int | None = None
    """Maximum number of answers of the base and the tuned model, over all sets, that are missing or
    could not be scored."""


def gate_problems(report: DeltaReport, gate: Gate) -> list[str]:
    """Compare a report with a gate.

    Returns:
        One clause for each limit that the report fails; an empty list if it passes.
    """
    found = report.overall
    problems = []
    # The comparisons are negated so that NaN never passes.
    if gate.min_accuracy is not None and not found.tuned.share >= gate.min_accuracy:
        problems.append(
            f"accuracy is {_percent(found.tuned.share)} ({found.tuned.correct} of"
            f" {found.tuned.total}), expected at least {_percent(gate.min_accuracy)}"
        )
    if gate.min_gain is not None and not found.gain >= gate.min_gain:
        problems.append(
            f"gain is {_points(found.gain)} points, expected at least {_points(gate.min_gain)}"
        )
    low = found.paired.gain_low
    if gate.min_gain_low is not None and not (low is not None and low >= gate.min_gain_low):
        problems.append(
            f"the lower end of the gain's interval is {_points(low)}, expected at least"
            f" {_points(gate.min_gain_low)}"
        )
    regressed = found.paired.regressed
    if gate.max_regressions is not None and not regressed <= gate.max_regressions:
        problems.append(f"{regressed} items regressed, expected at most {gate.max_regressions}")
    if gate.min_guard_kept is not None:
        problems += _guard_problems(report.guard, gate.min_guard_kept)
    if gate.max_errors is not None:
        problems += _error_problems(report, gate.max_errors)
    return problems


def _error_problems(report: DeltaReport, most: int) -> list[str]:
    found = sum(one.overall.base.error + one.overall.tuned.error for one in report.sets)
    if found <= most:
        return []
    return [
        f"{found} answers are missing or could not be scored, expected at most {most}; the report"
        " lists them as errors"
    ]


def _guard_problems(guard: Guard | None, min_kept: float) -> list[str]:
    if guard is None:
        return ["the report has no guard set, expected one; set eval.guard_set"]
    if guard.kept_share >= min_kept:
        return []
    return [
        f"{_percent(guard.kept_share)} of the guarded questions are kept ({guard.kept} of"
        f" {guard.base.correct}), expected at least {_percent(min_kept)}"
    ]


def _points(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:+.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
