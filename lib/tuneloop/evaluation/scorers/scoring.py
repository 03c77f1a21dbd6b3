"""Score the text that a model generated for an item: the strict and the lenient judgement.

The strict judgement reads the answer from where the prompt template's grammar puts it. The grammar
of a chat has no place for it: there a short answer is what the visible text states as its answer,
else the whole visible text. The lenient judgement searches the whole text, so that the difference
of the two shows how much of a result is format. Neither reads reasoning, in a block of a thinking
model or under the heading `Reasoning:`: the numbers in it are intermediate results, and one of them
is often the expected one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import ValidationError

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import ScorerKind
from tuneloop.evaluation.scorers.rows.table import ALIASES, TABLE
from tuneloop.evaluation.scorers.text.places import (
    after_reasoning,
    last_line,
    marked,
    whole_answer,
    without_reasoning,
)
from tuneloop.evaluation.scorers.user_file import UserScorer, is_user_file
from tuneloop.settings.environment import read_settings, variable
from tuneloop.validation import first_error, look_up

ScorerName = str | Mapping[str, Any] | UserScorer
"""A scorer as a spec or an item names it: a kind, an object with `kind` and options, or a loaded
file."""


@dataclass(frozen=True)
class Scorer:
    """A kind of scorer with its options."""

    name: str
    kind: ScorerKind
    options: Options


def scorer_of(name: ScorerName, what: str = "scorer") -> Scorer:
    """Look up a scorer and validate its options.

    Args:
        name: a kind, an object with the key `kind` and options, or a loaded file.
        what: place of the value, for error messages.

    Raises:
        SpecError: the kind is unknown, or an option is not valid.
    """
    if isinstance(name, UserScorer):
        return Scorer(name.place, name.kind, Options())
    if isinstance(name, str):
        return _named(ALIASES.get(name, name), b"{}", what)
    options = dict(name)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        known = ", ".join(sorted(TABLE))
        raise SpecError(f"{what}.kind is missing, expected one of: {known}")
    return _named(ALIASES.get(kind, kind), msgspec.json.encode(options, order="sorted"), what)


@lru_cache(maxsize=4096)
def _named(kind: str, options: bytes, what: str) -> Scorer:
    if is_user_file(kind):
        raise SpecError(
            f"{what} {kind!r} is a file, expected a kind; name a file in the spec alone"
        )
    row = look_up(TABLE, kind, what)
    given = msgspec.json.decode(options)
    try:
        return Scorer(kind, row, row.options.model_validate(given))
    except ValidationError as error:
        raise SpecError(f"{what}.{first_error(error, given)}") from error


def check_allowed(scorer: Scorer, allow: Collection[str]) -> None:
    """Refuse a scorer that runs programs or sends data, unless it is allowed by name.

    Args:
        scorer: the scorer.
        allow: names of allowed scorers, beside those in the variable of the settings.

    Raises:
        SpecError: the scorer is not allowed.
    """
    if not scorer.kind.must_be_allowed or scorer.name in allow:
        return
    if scorer.name not in read_settings().allow_scorers.replace(" ", "").split(","):
        does = "runs programs that a model wrote" if scorer.name == "code" else "sends data"
        raise SpecError(
            f"scorer {scorer.name} {does} and is not allowed, expected permission; set"
            f" {variable('allow_scorers')}={scorer.name} where it runs"
        )


def item_problem(item: Item, default_scorer: ScorerName) -> str | None:
    """Say why an item cannot be scored, such as an expected answer that is not a number.

    Returns:
        Part of a sentence; None if the item can be scored.

    Raises:
        SpecError: the scorer's name or its options are not valid.
    """
    scorer = scorer_of(default_scorer if item.scorer is None else item.scorer)
    return scorer.kind.check(item, scorer.options) if scorer.kind.check else None


def score_text(
    text: str,
    item: Item,
    default_scorer: ScorerName,
    *,
    parse: Callable[[str], str | None],
    is_chat: bool = False,
    hit_limit: bool = False,
    allow: Collection[str] = (),
) -> tuple[Judgement, Judgement]:
    """Score one generated text.

    Args:
        text: the text, without the stop token.
        item: the item that was asked.
        default_scorer: scorer of items that name none.
        parse: the prompt template's grammar: a text -> its answer, or None. It is not used for an
            item with a bare answer, whose answer is the whole text.
        is_chat: whether the grammar's answer is the whole visible text of a chat.
        hit_limit: whether generation reached its maximum number of tokens.
        allow: names of scorers that may run programs or send data.

    Returns:
        The strict and the lenient judgement; the same object if they are equal.

    Raises:
        SpecError: the scorer's name or its options are not valid, or it is not allowed.
    """
    scorer = scorer_of(default_scorer if item.scorer is None else item.scorer)
    check_allowed(scorer, allow)
    visible = without_reasoning((parse(text) or "") if is_chat else text)
    if scorer.kind.reads == "text":
        answer: str | None = visible
    elif is_chat or item.bare_answer is True:
        # A text that was cut is no answer, but the beginning of one.
        answer = None if hit_limit else whole_answer(visible)
        if is_chat and scorer.kind.short and answer is not None:
            answer = marked(answer) or answer
    else:
        answer = parse(visible)
    if answer is not None and not answer.strip():
        answer = None
    strict = _no_answer(hit_limit) if answer is None else _judge(answer, item, scorer)
    if strict.state == "correct" or scorer.kind.reads == "text":
        return strict, strict
    lenient = _search(after_reasoning(visible), item, scorer, hit_limit, strict)
    return strict, strict if lenient == strict else lenient


def _search(text: str, item: Item, scorer: Scorer, hit_limit: bool, strict: Judgement) -> Judgement:
    """Judge the first answer that is correct, else the first; a cut text needs a marked answer."""
    if hit_limit and marked(text) is None:
        return _no_answer(hit_limit)
    first = None
    for answer in (scorer.kind.search or _last_line)(text, item, scorer.options):
        judged = strict if answer == strict.answer else _judge(answer, item, scorer)
        if judged.state == "correct":
            return judged
        first = first or judged
    return first or _no_answer(hit_limit)


def _last_line(text: str, item: Item, options: Options) -> list[str]:
    found = marked(text) or last_line(text)
    return [found] if found else []


def _judge(answer: str, item: Item, scorer: Scorer) -> Judgement:
    """Judge an answer; what is reported of it can be stored as UTF-8."""
    judged = scorer.kind.judge(answer.strip(), item, scorer.options)
    if judged.answer is None or judged.answer.isascii():
        return judged
    return msgspec.structs.replace(judged, answer=_storable(judged.answer))


def _storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _no_answer(hit_limit: bool) -> Judgement:
    if hit_limit:
        return Judgement(
            "truncated", 0.0, explanation="generation reached its token limit before an answer"
        )
    return Judgement("no_answer", 0.0, explanation="the text has no answer")
