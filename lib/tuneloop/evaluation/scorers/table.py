"""The table of scorers; `eval.scorer` of a run spec names one of them.

To add a scorer, write a function in a new module of this package and add a row.
"""

from __future__ import annotations

from tuneloop.evaluation.scorers.exact_match import score_exact_match
from tuneloop.evaluation.scorers.schema import Scorer
from tuneloop.validation import look_up

SCORERS: dict[str, Scorer] = {
    "exact_match": Scorer(score_exact_match, "normalised exact match"),
}
"""Scorers by name."""


def scorer_named(name: str) -> Scorer:
    """Look up a scorer by name.

    Raises:
        SpecError: the name is unknown; the message lists the known names.
    """
    return look_up(SCORERS, name, "eval.scorer")
