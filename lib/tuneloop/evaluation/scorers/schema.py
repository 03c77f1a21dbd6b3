"""The types of scorers and scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tuneloop.artifacts.delta_report import Outcome
from tuneloop.evaluation.sets.schema import EvalItem


@dataclass(frozen=True)
class Score:
    """The judgement of one answer."""

    outcome: Outcome
    value: float
    """Credit from 0 to 1; 1 is fully correct."""
    answer: str | None = None
    """The extracted answer as the model wrote it."""
    matched: str | None = None
    """The accepted spelling that the answer equals, normalised; None unless correct."""
    explanation: str | None = None
    """Reason for the judgement, from scorers that give one."""

    @classmethod
    def correct(cls, answer: str, matched: str | None = None) -> Score:
        """Create the score of a correct answer, with full credit."""
        return cls("correct", 1.0, answer, matched)

    @classmethod
    def wrong(cls, answer: str, explanation: str | None = None) -> Score:
        """Create the score of a wrong answer, without credit."""
        return cls("wrong", 0.0, answer, explanation=explanation)

    @classmethod
    def no_answer(cls) -> Score:
        """Create the score of a text from which no answer could be extracted."""
        return cls("no_answer", 0.0)


@dataclass(frozen=True)
class Scorer:
    """One row of the table of scorers."""

    score: Callable[[EvalItem, str | None], Score]
    """(item, what the scorer reads or None) -> score; pure."""
    description: str
    """Completes the sentence "Answers are compared by ..." in the report."""
    reads: Literal["answer", "text"] = "answer"
    """What is scored: the answer that the recipe extracts, or the whole generated text."""
