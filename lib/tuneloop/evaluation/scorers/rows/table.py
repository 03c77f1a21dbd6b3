"""The table of scorers, from which specs and the items of eval sets choose.

To add a scorer, write a function in a new module of this package and add a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuneloop.evaluation.scorers.row import ScorerKind
from tuneloop.evaluation.scorers.rows.contains import judge_contains
from tuneloop.evaluation.scorers.rows.exact import ExactOptions, judge_exact, search_exact

TABLE: Mapping[str, ScorerKind] = {
    "exact": ScorerKind(
        judge_exact, "normalised exact match", options=ExactOptions, search=search_exact
    ),
    "contains": ScorerKind(
        judge_contains,
        "looking for an accepted answer as a whole word in the generated text",
        options=ExactOptions,
        reads="text",
    ),
}
"""Scorers by the name that specs and items use."""
ALIASES: Mapping[str, str] = {"exact_match": "exact", "contains_answer": "contains"}
"""Older names -> names in the table."""
