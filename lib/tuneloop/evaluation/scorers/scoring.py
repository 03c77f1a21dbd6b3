"""Score the text that a model generated for an item: the strict and the lenient judgement.

The strict judgement reads the answer from where the prompt template's grammar puts it. The lenient
one searches the whole text, so that the difference of the two shows how much of a result is format.
Neither reads reasoning, in a block of a thinking model or under the heading `Reasoning:`: the
numbers in it are intermediate results, and one of them is often the expected one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from tuneloop.artifacts.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import ScorerKind
from tuneloop.evaluation.scorers.rows.table import ALIASES, TABLE
from tuneloop.evaluation.scorers.text.places import (
    after_reasoning,
    last_line,
    marked,
    without_reasoning,
)
from tuneloop.validation import first_error, look_up

ScorerName = str | Mapping[str, Any]
"""A scorer as a spec or an item names it: a kind, or an object with `kind` and options."""


@dataclass(frozen=True)
class Scorer:
    """A kind of scorer with its options."""

    name: str
    kind: ScorerKind
    options: Options


def scorer_of(name: ScorerName, what: str = "scorer") -> Scorer:
    """Look up a scorer and validate its options.

    Args:
        name: a kind, or an object with the key `kind` and options.
        what: place of the value, for error messages.

    Raises:
        SpecError: the kind is unknown, or an option is not valid.
    """
    if isinstance(name, str):
        return _scorer_named(name, what)
    options = dict(name)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        known = ", ".join(sorted(TABLE))
        raise SpecError(f"{what}.kind is missing, expected one of: {known}")
    key = ALIASES.get(kind, kind)
    row = look_up(TABLE, key, f"{what}.kind")
    try:
        return Scorer(key, row, row.options.model_validate(options))
    except ValidationError as error:
        raise SpecError(f"{what}.{first_error(error, options)}") from error


@lru_cache(maxsize=256)
def _scorer_named(name: str, what: str) -> Scorer:
    return scorer_of({"kind": name}, what)


def score_text(
    text: str,
    item: Item,
    default_scorer: ScorerName,
    *,
    parse: Callable[[str], str | None],
    hit_limit: bool = False,
) -> tuple[Judgement, Judgement]:
    """Score one generated text.

    Args:
        text: the text, without the stop token.
        item: the item that was asked.
        default_scorer: scorer of items that name none.
        parse: the prompt template's grammar: a text -> its answer, or None.
        hit_limit: whether generation reached its maximum number of tokens.

    Returns:
        The strict and the lenient judgement; the same object if they are equal.

    Raises:
        SpecError: the scorer's name or its options are not valid.
    """
    name = default_scorer if item.scorer is None else item.scorer
    scorer = scorer_of(name)
    visible = without_reasoning(text)
    answer = visible if scorer.kind.reads == "text" else parse(visible)
    if answer is not None and not answer.strip():
        answer = None
    strict = _no_answer(hit_limit) if answer is None else _judge(answer, item, scorer)
    if strict.state == "correct" or scorer.kind.reads == "text":
        return strict, strict
    lenient = _search(after_reasoning(visible), item, scorer, hit_limit)
    return strict, strict if lenient == strict else lenient


def _search(text: str, item: Item, scorer: Scorer, hit_limit: bool) -> Judgement:
    """Judge the first answer that is correct, else the first; a cut text needs a marked answer."""
    if hit_limit and marked(text) is None:
        return _no_answer(hit_limit)
    search = scorer.kind.search or _last_line
    judged = [_judge(answer, item, scorer) for answer in search(text, item, scorer.options)]
    if not judged:
        return _no_answer(hit_limit)
    return next((each for each in judged if each.state == "correct"), judged[0])


def _last_line(text: str, item: Item, options: Options) -> list[str]:
    found = marked(text) or last_line(text)
    return [found] if found else []


def _judge(answer: str, item: Item, scorer: Scorer) -> Judgement:
    return scorer.kind.judge(answer.strip(), item, scorer.options)


def _no_answer(hit_limit: bool) -> Judgement:
    if hit_limit:
        return Judgement(
            "truncated", 0.0, explanation="generation reached its token limit before an answer"
        )
    return Judgement("no_answer", 0.0, explanation="the text has no answer")
