"""The baseline score of a trace, computed from lengths by the seed API's formula.

It does not measure whether the answer is correct, and nothing else uses it. Evaluations compare
answers with expected answers instead (`evaluation/scorers/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.traces.fast import StoredStep
from tuneloop.traces.schema import TraceStep

FULL_STEPS = 10
FULL_STEP_CHARACTERS = 500
HALF = 50.0


@dataclass(frozen=True)
class BaselineScore:
    """A score from 0 to 100 and its parts."""

    step_count: int
    avg_step_length: float
    """Mean characters per step, rounded to two decimals."""
    total_chars: int
    """Characters of all steps."""
    step_score: float
    """Points for the number of steps; 50 at ten steps or more."""
    length_score: float
    """Points for the mean step length; 50 at 500 characters or more."""

    @property
    def score(self) -> float:
        """Return the sum of both scores, rounded to two decimals."""
        return round(self.step_score + self.length_score, 2)


def score_baseline(steps: Sequence[TraceStep | StoredStep]) -> BaselineScore:
    """Score the steps of a trace by min(steps/10, 1)*50 + min(average step length/500, 1)*50."""
    total = sum(len(step.content) for step in steps)
    average = total / len(steps)
    return BaselineScore(
        step_count=len(steps),
        avg_step_length=round(average, 2),
        total_chars=total,
        step_score=round(min(len(steps) / FULL_STEPS, 1.0) * HALF, 2),
        length_score=round(min(average / FULL_STEP_CHARACTERS, 1.0) * HALF, 2),
    )
