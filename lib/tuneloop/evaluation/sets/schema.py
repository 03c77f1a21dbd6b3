"""Eval sets: questions with one right answer each, a JSON object a line.

One rule: a set is read whole or not at all. A wrong line would change the score without a trace,
so nothing is skipped, mended or guessed; the error names the line.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tuneloop.errors import DataError
from tuneloop.jsonl import dump_line, parse_line
from tuneloop.validation import all_errors, shorten


def _not_blank(text: str) -> str:
    if "\0" in text:  # the answers become traces, and the store refuses it
        raise ValueError("expected text without NUL characters")
    if not text.strip():
        raise ValueError("expected text that is not blank")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=50_000), AfterValidator(_not_blank)]


class EvalItem(BaseModel):
    """One question, and what counts as its right answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]
    """Names the item in results; unique in its set and never given to another question."""
    prompt: _Text
    """What the model is asked, as is; unique in its set."""
    expected_answer: _Text
    """The right answer, as a model that follows the prompt writes it."""
    accepted_answers: tuple[_Text, ...] = ()
    """Other spellings that are just as right."""
    category: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_not_blank)]
    """What is tested; scores are also given by category."""
    difficulty: Literal["easy", "medium", "hard"]
    """How hard the author found it."""
    case_sensitive: bool = False
    """Whether "m" is a wrong answer where "M" is right; letter case is ignored elsewhere."""


def parse_eval_set(data: bytes, place: str) -> tuple[EvalItem, ...]:
    """Read a whole eval set.

    Args:
        data: the file; a byte order mark, CRLF line ends and blank lines are tolerated.
        place: the file or address, as the error should name it.

    Returns:
        The items in file order, at least one.

    Raises:
        DataError: anything in the file is wrong. Says the first problem, and how many follow.
    """
    items, found = _read(data, place)
    if found:
        more = len(found) - 1
        rest = f" ({more} more problem{'s' if more > 1 else ''} in this file)" if more else ""
        raise DataError(found[0] + rest)
    return tuple(items)


def prompts_sha256(items: Iterable[EvalItem]) -> str:
    """Digest of ids and prompts: what a training set is checked against."""
    lines = (dump_line({"id": item.id, "prompt": item.prompt}) for item in items)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def problems(data: bytes, place: str) -> list[str]:
    """Say everything that is wrong with an eval set, in file order.

    Args:
        data: the file.
        place: the file or address, as the sentences should name it.

    Returns:
        One sentence for each problem; empty where `parse_eval_set` would read the set.
    """
    return _read(data, place)[1]


def _read(data: bytes, place: str) -> tuple[list[EvalItem], list[str]]:
    items: list[EvalItem] = []
    found: list[str] = []
    id_lines: dict[str, int] = {}
    prompt_lines: dict[str, int] = {}
    for number, line in enumerate(io.BytesIO(data), start=1):
        at = f"{place}:{number}"
        try:
            value = parse_line(line, place, number)
            if value is None:
                continue
            item = EvalItem.model_validate(value)
        except DataError as error:
            found.append(str(error))
        except ValidationError as error:
            found += [f"{at}: {what}; mend the line" for what in all_errors(error)]
        else:
            items.append(item)
            if (first := id_lines.setdefault(item.id, number)) != number:
                what = f"id {shorten(item.id)} is already on line {first}, expected every id once"
                found.append(f"{at}: {what}; rename or remove one of the two")
            if (first := prompt_lines.setdefault(_folded(item.prompt), number)) != number:
                what = f"the prompt is already on line {first}, expected every prompt once"
                found.append(f"{at}: {what}; reword or remove one of the two")
    if not items and not found:
        what = "the file holds no items, expected at least one JSON object"
        found.append(f"{place}: {what}; add an item a line")
    return items, found


def _folded(text: str) -> str:
    """What is left of a prompt when width, case and white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
