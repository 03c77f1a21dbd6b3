"""Eval sets: questions with one correct answer each, stored as one JSON object per line.

A file with any invalid line is refused as a whole, and the error names the line. Skipping a line
would silently change the score.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tuneloop.errors import DataError
from tuneloop.file_kinds import not_text
from tuneloop.jsonl import dump_line, parse_line
from tuneloop.validation import all_errors, shorten


def _not_blank(text: str) -> str:
    if "\0" in text:  # Answers become traces, and the trace store refuses NUL.
        raise ValueError("expected text without NUL characters")
    if not text.strip():
        raise ValueError("expected text that is not blank")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=50_000), AfterValidator(_not_blank)]


class EvalItem(BaseModel):
    """One question and its correct answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]
    """Identifier of the item in results; unique in the set, and never reused for another item."""
    prompt: _Text
    """The question, passed to the model unchanged; unique in the set."""
    expected_answer: _Text
    """The correct answer, spelled as a model that follows the prompt would write it."""
    accepted_answers: tuple[_Text, ...] = ()
    """Other spellings of the correct answer."""
    category: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_not_blank)]
    """The skill that the item tests; the report also gives scores by category."""
    difficulty: Literal["easy", "medium", "hard"]
    """Difficulty in the author's judgement."""
    case_sensitive: bool = False
    """Whether letter case matters, so that "m" is wrong if "M" is expected."""


def parse_eval_set(data: bytes, place: str) -> tuple[EvalItem, ...]:
    """Read a whole eval set.

    Args:
        data: content of the file; a byte order mark, CRLF line ends and blank lines are accepted.
        place: path or URL of the file, for error messages.

    Returns:
        The items in file order, at least one.

    Raises:
        DataError: the file has problems. The message describes the first one and counts the rest.
    """
    items, found = _read(data, place)
    if found:
        more = len(found) - 1
        rest = f" ({more} more problem{'s' if more > 1 else ''} in this file)" if more else ""
        raise DataError(found[0] + rest)
    return tuple(items)


def dump_eval_set(items: Iterable[EvalItem]) -> bytes:
    """Serialise an eval set, one item per line; `parse_eval_set` reads it."""
    rows = (json.dumps(item.model_dump(mode="json"), ensure_ascii=False) for item in items)
    return "".join(f"{row}\n" for row in rows).encode()


def prompts_sha256(items: Iterable[EvalItem]) -> str:
    """Compute the digest of all ids and prompts, which records which eval set an export checked."""
    lines = (dump_line({"id": item.id, "prompt": item.prompt}) for item in items)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def problems(data: bytes, place: str) -> list[str]:
    """List all problems of an eval set, in file order.

    Args:
        data: content of the file.
        place: path or URL of the file, for the messages.

    Returns:
        One sentence for each problem; an empty list if `parse_eval_set` accepts the file.
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
            if number == 1 and not_text(line) is not None:
                break  # every other line of binary data would be a problem, too
        except ValidationError as error:
            found += [f"{at}: {what}; fix the line" for what in all_errors(error)]
        else:
            items.append(item)
            if (first := id_lines.setdefault(item.id, number)) != number:
                what = f"id {shorten(item.id)} is already on line {first}, expected unique ids"
                found.append(f"{at}: {what}; rename or remove one of the two")
            if (first := prompt_lines.setdefault(_folded(item.prompt), number)) != number:
                what = f"the prompt is already on line {first}, expected unique prompts"
                found.append(f"{at}: {what}; reword or remove one of the two")
    if not items and not found:
        what = "the file has no items, expected at least one JSON object"
        found.append(f"{place}: {what}; add one item per line")
    return items, found


def _folded(text: str) -> str:
    """Normalise a prompt so that width, case and white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
