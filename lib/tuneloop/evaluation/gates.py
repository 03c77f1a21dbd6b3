"""Gates: minimum results that a run's delta report must show."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts.delta_report import DeltaReport


@dataclass(frozen=True)
class Gate:
    """Limits for a delta report; None sets no limit."""

    min_accuracy: float | None = None
    """Minimum accuracy of the tuned model, from 0 to 1."""
    min_gain: float | None = None
    """Minimum accuracy gain (tuned - base), from -1 to 1; 0 means no regression is allowed."""
    max_regressions: int | None = None
    """Maximum number of items that only the base model answers correctly."""


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
            f"gain is {100 * found.gain:+.1f} points, expected at least {100 * gate.min_gain:+.1f}"
        )
    regressed = found.paired.regressed
    if gate.max_regressions is not None and not regressed <= gate.max_regressions:
        problems.append(f"{regressed} items regressed, expected at most {gate.max_regressions}")
    return problems


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
