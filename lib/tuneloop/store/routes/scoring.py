"""The baseline score of a trace: its length by the peer's formula.

It does not measure whether the answer is right, and nothing else uses it. Evaluations compare with
the expected answer (`evaluation/scorers/`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.traces.schema import ReasoningTrace

FULL_STEPS = 10
FULL_STEP_CHARACTERS = 500
HALF = 50.0


@dataclass(frozen=True)
class BaselineScore:
    """A score from 0 to 100 and what it is made of."""

    step_count: int
    avg_step_length: float
    """Characters, two decimals."""
    total_chars: int
    """Of all steps."""
    step_score: float
    """Up to 50 for ten steps."""
    length_score: float
    """Up to 50 for steps of 500 characters on average."""

    @property
    def score(self) -> float:
        """The sum, two decimals."""
        return round(self.step_score + self.length_score, 2)


def score_baseline(trace: ReasoningTrace) -> BaselineScore:
    """Score a trace: min(steps/10, 1)*50 + min(average step length/500, 1)*50."""
    total = sum(len(step.content) for step in trace.steps)
    average = total / len(trace.steps)
    return BaselineScore(
        step_count=len(trace.steps),
        avg_step_length=round(average, 2),
        total_chars=total,
        step_score=round(min(len(trace.steps) / FULL_STEPS, 1.0) * HALF, 2),
        length_score=round(min(average / FULL_STEP_CHARACTERS, 1.0) * HALF, 2),
    )
