"""One row of the table of scorers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options


@dataclass(frozen=True)
class ScorerKind:
    """One kind of scorer."""

    judge: Callable[[str, Item, Any], Judgement]
    """(answer or text, item, options) -> judgement; pure."""
    description: str
    """Completes the sentence "Answers are compared by ..." in the report."""
    options: type[Options] = Options
    """Class of its options."""
    reads: Literal["answer", "text"] = "answer"
    """What is judged: the answer that the prompt template's grammar finds, or the whole text."""
    search: Callable[[str, Item, Any], list[str]] | None = None
    """(text, item, options) -> answers to try, from which the lenient score takes the first that is
    correct, else the first. None: what is marked as the answer, else the last line."""
    check: Callable[[Item, Any], str | None] | None = None
    """(item, options) -> why the item cannot be scored, or None; for validation of eval sets."""
    short: bool = False
    """Whether it compares short answers, so that the strict score of a chat reads what the text
    states as its answer, in a box or after words such as `the answer is`."""
    must_be_allowed: bool = False
    """Whether the scorer is off unless the user allows it: it runs programs or sends data."""


def correct(answer: str, matched: str, explanation: str | None = None) -> Judgement:
    """Create the judgement of a correct answer, with full credit."""
    return Judgement("correct", 1.0, answer, matched, explanation)


def wrong(answer: str, explanation: str | None = None) -> Judgement:
    """Create the judgement of a wrong answer, without credit."""
    return Judgement("wrong", 0.0, answer, None, explanation)


def failed(answer: str | None, explanation: str) -> Judgement:
    """Create the judgement of an answer that the scorer could not judge."""
    return Judgement("error", 0.0, answer, None, explanation)
