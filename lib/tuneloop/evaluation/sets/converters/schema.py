"""What a converter makes of a row, and the parts that several converters share."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

System = Literal["drop", "prepend"]
"""What becomes of a system message: the row is dropped, or the text goes before the question."""


class Dropped(Exception):
    """A row that cannot be converted; its text is the reason."""


@dataclass(frozen=True)
class Options:
    """What the user states about a dataset, because nothing is guessed."""

    category: str | None = None
    """Category of rows without one."""
    category_from: str | None = None
    """Key of a row, or of its metadata, that holds the category."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Key of an item -> column or key of the dataset."""
    answer_after: str | None = None
    """The answer is the text after the last of these marks, such as `####` of GSM8K."""
    system: System = "drop"


@dataclass(frozen=True)
class Draft:
    """The keys of an item that a row gives."""

    prompt: object
    answers: Sequence[object]
    """The expected answer, then the others that are accepted."""
    id: object = None
    choices: Sequence[object] | None = None
    """Texts of the choices; the answer is then the label A, B, C, the number from 0, or the text of
    the correct one."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of an item."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the row has in addition."""


@dataclass(frozen=True)
class Converter:
    """One kind of dataset."""

    draft: Callable[[dict[str, Any], Options], Draft]
    """Row and options -> the keys of the item; raises Dropped."""
    what: str
    """What the rows are, for the help."""
    columns: tuple[str, ...] = ()
    """Keys of an item that `columns` may name; empty if the format has fixed keys."""
    required: tuple[str, ...] = ()
    """Those that `columns` must name."""
    read: Literal["jsonl", "parquet"] = "jsonl"


LABELS = string.ascii_uppercase


def text_of(value: object, what: str) -> str:
    """Return a value as text: text itself, or a whole number in digits.

    Raises:
        Dropped: it is anything else, because its spelling would be a guess.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Dropped(f"{what} is {_kind(value)}, expected text")


def _kind(value: object) -> str:
    kinds = {type(None): "missing", bool: "true or false", float: "a fraction", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def conversation_text(turns: Iterable[object], system: System, what: str) -> str:
    """Return the question of a conversation with one message of the user.

    Args:
        turns: messages with `role` and `content`.
        system: what becomes of system messages.
        what: key of the row, for reasons.

    Raises:
        Dropped: there are other turns, or content that is not text.
    """
    texts: dict[str, list[str]] = {"system": [], "user": []}
    for turn in turns:
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in texts:
            raise Dropped(f"{what} has a turn of {role or 'nobody'}, expected one user message")
        assert isinstance(turn, dict)
        texts[role].append(_content(turn.get("content"), what))
    if len(texts["user"]) != 1:
        raise Dropped(f"{what} has {len(texts['user'])} user messages, expected one")
    if texts["system"] and system == "drop":
        raise Dropped(f"{what} has a system message, expected none; see --system")
    return "\n\n".join([*texts["system"], *texts["user"]])


def _content(value: object, what: str) -> str:
    if isinstance(value, list):
        parts = [each.get("text") if isinstance(each, dict) else None for each in value]
        if not all(isinstance(part, str) for part in parts):
            raise Dropped(f"{what} has content that is not text, such as an image")
        return "".join(map(str, parts))
    return text_of(value, f"the content of {what}")


def labelled(choices: Sequence[object]) -> dict[str, str]:
    """Give choices the labels A, B, C.

    Raises:
        Dropped: there are fewer than two or more than 26, or two are equal.
    """
    texts = [text_of(each, "a choice") for each in choices]
    if not 2 <= len(texts) <= len(LABELS):
        raise Dropped(f"there are {len(texts)} choices, expected 2 to {len(LABELS)}")
    if len(set(texts)) < len(texts):
        raise Dropped("two choices are equal")
    return dict(zip(LABELS, texts, strict=False))


def label_of(answer: object, choices: Mapping[str, str]) -> str:
    """Return the label of the correct choice: the answer is its label, number from 0, or text.

    Raises:
        Dropped: it is none of them.
    """
    labels = list(choices)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(labels):
        return labels[answer]
    if isinstance(answer, str):
        if answer in choices:
            return answer
        for label, text in choices.items():
            if text == answer:
                return label
    raise Dropped("the answer is no label, number or text of the choices")
