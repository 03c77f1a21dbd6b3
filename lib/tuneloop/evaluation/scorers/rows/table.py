"""The table of scorers, from which specs and the items of eval sets choose.

To add a scorer, write a function in a new module of this package and add a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuneloop.evaluation.scorers.row import ScorerKind
from tuneloop.evaluation.scorers.rows.choice import (
    ChoiceOptions,
    check_choice,
    judge_choice,
    search_choice,
)
from tuneloop.evaluation.scorers.rows.code import CodeOptions, judge_code
from tuneloop.evaluation.scorers.rows.contains import judge_contains
from tuneloop.evaluation.scorers.rows.exact import ExactOptions, judge_exact, search_exact
from tuneloop.evaluation.scorers.rows.json_schema import (
    JsonSchemaOptions,
    check_json_schema,
    judge_json_schema,
    search_json,
)
from tuneloop.evaluation.scorers.rows.judge import JudgeOptions, judge_by_model
from tuneloop.evaluation.scorers.rows.math import MathOptions, judge_math
from tuneloop.evaluation.scorers.rows.numeric import (
    NumericOptions,
    check_numeric,
    judge_numeric,
    search_numeric,
)
from tuneloop.evaluation.scorers.rows.reasoning_gym import (
    ReasoningGymOptions,
    judge_reasoning_gym,
)
from tuneloop.evaluation.scorers.rows.regex import RegexOptions, judge_regex

TABLE: Mapping[str, ScorerKind] = {
    "exact": ScorerKind(
        judge_exact,
        "normalised exact match",
        options=ExactOptions,
        search=search_exact,
        short=True,
    ),
    "numeric": ScorerKind(
        judge_numeric,
        "the value of their number",
        options=NumericOptions,
        search=search_numeric,
        check=check_numeric,
        short=True,
    ),
    "choice": ScorerKind(
        judge_choice,
        "the choice that they name",
        options=ChoiceOptions,
        search=search_choice,
        check=check_choice,
        short=True,
    ),
    "contains": ScorerKind(
        judge_contains,
        "looking for an accepted answer as a whole word in the generated text",
        options=ExactOptions,
        reads="text",
    ),
    "regex": ScorerKind(judge_regex, "a regular expression of the item", options=RegexOptions),
    "math": ScorerKind(
        judge_math,
        "mathematical equality (math-verify)",
        options=MathOptions,
        search=search_exact,
        short=True,
    ),
    "json_schema": ScorerKind(
        judge_json_schema,
        "a JSON Schema of the item",
        options=JsonSchemaOptions,
        search=search_json,
        check=check_json_schema,
    ),
    "reasoning_gym": ScorerKind(
        judge_reasoning_gym,
        "the scorer of their reasoning-gym task",
        options=ReasoningGymOptions,
        search=search_exact,
        short=True,
    ),
    "code": ScorerKind(
        judge_code,
        "running the program that they hold against tests",
        options=CodeOptions,
        reads="text",
        must_be_allowed=True,
    ),
    "judge": ScorerKind(
        judge_by_model,
        "asking another model",
        options=JudgeOptions,
        must_be_allowed=True,
    ),
}
"""Scorers by the name that specs and items use."""
ALIASES: Mapping[str, str] = {"exact_match": "exact", "contains_answer": "contains"}
"""Older names -> names in the table."""
