"""The table of scorers, from which `eval.scorer` and `eval.guard_scorer` of a run spec choose.

To add a scorer, write a function in a new module of this package and add a row.
"""

from __future__ import annotations

from tuneloop.evaluation.scorers.contains_answer import score_contains_answer
from tuneloop.evaluation.scorers.exact_match import score_exact_match
from tuneloop.evaluation.scorers.schema import Scorer
from tuneloop.validation import look_up

SCORERS: dict[str, Scorer] = {
    "exact_match": Scorer(score_exact_match, "normalised exact match"),
    "contains_answer": Scorer(
        score_contains_answer,
        "looking for an accepted answer as a whole word in the generated text",
        reads="text",
    ),
}
"""Scorers by name."""


def scorer_named(name: str, option: str = "eval.scorer") -> Scorer:
    """Look up a scorer by name.

    Args:
        name: the name.
        option: the option that holds it, for the error message.

    Raises:
        SpecError: the name is unknown; the message lists the known names.
    """
    return look_up(SCORERS, name, option)
