"""The table of scorers, by the name that `eval.scorer` gives.

To add a scorer, write a function in a module of its own beside this one and add a row.
"""

from __future__ import annotations

from tuneloop.evaluation.scorers.exact_match import score_exact_match
from tuneloop.evaluation.scorers.schema import Scorer
from tuneloop.validation import look_up

SCORERS: dict[str, Scorer] = {
    "exact_match": Scorer(score_exact_match, "normalised exact match"),
}
"""Every scorer by name."""


def scorer_named(name: str) -> Scorer:
    """Look a scorer up; SpecError lists those that exist."""
    return look_up(SCORERS, name, "eval.scorer")
