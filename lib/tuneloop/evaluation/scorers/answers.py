"""Score a file of answers of any model against an eval set, without a run."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts.evaluation.eval_samples import STATES, Item, Judgement
from tuneloop.errors import DataError
from tuneloop.evaluation.scorers.scoring import ScorerName, score_text
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.validation import shorten

_KEYS = frozenset(("id", "completion", "hit_limit"))


@dataclass(frozen=True)
class Answer:
    """One line of a file of answers."""

    completion: str
    hit_limit: bool = False
    """Whether generation reached its maximum number of tokens."""


@dataclass(frozen=True)
class ScoredAnswer:
    """One item with the judgements of its answer."""

    item: Item
    strict: Judgement
    lenient: Judgement
    missing: bool = False
    """Whether the file has no answer for the item; it counts as `no_answer`."""


def read_answers(data: bytes, place: str, ids: Collection[str]) -> dict[str, Answer]:
    """Read a file of answers: one JSON object `{"id": ..., "completion": ...}` per line.

    Args:
        data: content of the file.
        place: path or URL of the file, for error messages.
        ids: identifiers of the items of the set.

    Returns:
        Identifier -> answer, in file order.

    Raises:
        DataError: a line is not valid, has an identifier that is not in the set, or one that an
            earlier line has.
    """
    found: dict[str, Answer] = {}
    lines: dict[str, int] = {}
    for number, row in jsonl.iter_jsonl(io.BytesIO(data), place):
        at = f"{place}:{number}"
        if unknown := sorted(row.keys() - _KEYS):
            raise DataError(
                f"{at}: {unknown[0]} is an unknown key, expected id, completion and optionally"
                " hit_limit; remove it"
            )
        identifier, completion = (_text(row, key, at) for key in ("id", "completion"))
        hit_limit = row.get("hit_limit", False)
        if not isinstance(hit_limit, bool):
            raise DataError(
                f"{at}: hit_limit is {shorten(hit_limit)}, expected true or false; fix the line"
            )
        if identifier not in ids:
            raise DataError(
                f"{at}: the set has no item with id {shorten(identifier)}, expected ids of the set;"
                " check that the answers are of this set"
            )
        if identifier in lines:
            raise DataError(
                f"{at}: id {shorten(identifier)} is already on line {lines[identifier]}, expected"
                " one answer per item; remove one of the two"
            )
        lines[identifier] = number
        found[identifier] = Answer(completion, hit_limit)
    return found


def _text(row: Mapping[str, Any], key: str, at: str) -> str:
    if key not in row:
        raise DataError(f"{at}: {key} is missing, expected id and completion; add it")
    if not isinstance(row[key], str):
        raise DataError(f"{at}: {key} is {shorten(row[key])}, expected text; fix the line")
    return str(row[key])


def score_answers(
    items: Iterable[EvalItem],
    answers: Mapping[str, Answer],
    scorer: ScorerName,
    *,
    parse: Callable[[str], str | None],
    is_chat: bool = False,
    allow: Collection[str] = (),
) -> list[ScoredAnswer]:
    """Score the answers in the order of the set; an item without an answer is `no_answer`.

    Args:
        items: items of the set.
        answers: identifier -> answer.
        scorer: scorer of items that name none.
        parse: the prompt template's grammar: a text -> its answer, or None.
        is_chat: whether the grammar's answer is the whole visible text of a chat.
        allow: names of scorers that may run programs or send data.

    Raises:
        SpecError: a scorer's name or its options are not valid, or it is not allowed.
    """
    scored = []
    for row in items:
        item = row.to_item("")
        answer = answers.get(row.id)
        if answer is None:
            none = Judgement("no_answer", 0.0, explanation="the file has no answer for the item")
            scored.append(ScoredAnswer(item, none, none, missing=True))
            continue
        strict, lenient = score_text(
            answer.completion,
            item,
            scorer,
            parse=parse,
            is_chat=is_chat,
            hit_limit=answer.hit_limit,
            allow=allow,
        )
        scored.append(ScoredAnswer(item, strict, lenient))
    return scored


def summary(scored: Iterable[ScoredAnswer]) -> dict[str, Any]:
    """Count states and add up values; every item counts in every denominator."""
    rows = list(scored)
    strict, lenient = (Counter(getattr(row, name).state for row in rows) for name in _BOTH)
    return {
        "items": len(rows),
        "missing": sum(row.missing for row in rows),
        "value": sum(row.strict.value for row in rows) / len(rows),
        "states": {state: strict[state] for state in STATES},
        "lenient_value": sum(row.lenient.value for row in rows) / len(rows),
        "lenient_states": {state: lenient[state] for state in STATES},
    }


_BOTH = ("strict", "lenient")


def as_json(row: ScoredAnswer) -> dict[str, Any]:
    """Return one scored item for `--json`."""
    return {
        "id": row.item.id,
        "category": row.item.category,
        "missing": row.missing,
        **_judgement(row.strict),
        "lenient": _judgement(row.lenient),
    }


def _judgement(judged: Judgement) -> dict[str, Any]:
    return {
        "state": judged.state,
        "value": judged.value,
        "answer": judged.answer,
        "matched": judged.matched,
        "explanation": judged.explanation,
    }
