"""Eval sets: questions with one correct answer each, stored as one JSON object per line.

The first line may be `{"eval_set": {"name": ..., "version": ...}}`; it names the set. A file with
any invalid line is refused as a whole, and the error names the line. Skipping a line
would silently change the score.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from tuneloop.artifacts.evaluation.eval_samples import Item
from tuneloop.errors import DataError, SpecError
from tuneloop.evaluation.scorers.text.characters import plain_characters
from tuneloop.file_kinds import not_text
from tuneloop.jsonl import dump_line, parse_line
from tuneloop.traces.schema import Messages, Tools
from tuneloop.validation import all_errors, shorten


def _not_blank(text: str) -> str:
    if "\0" in text:  # Answers become traces, and the trace store refuses NUL.
        raise ValueError("expected text without NUL characters")
    if not text.strip():
        raise ValueError("expected text that is not blank")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=50_000), AfterValidator(_not_blank)]


_Label = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names and versions of eval sets, which become parts of file names."""
HEADER_KEY = "eval_set"
"""The only key of the first line of a set that states its name and version."""


_CHAT = ("system", "messages", "tools", "bare_answer")
"""Keys of an item that is part of a chat; items without them keep the digests that they had."""


class EvalItem(BaseModel):
    """One question and its correct answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]
    """Identifier of the item in results; unique in the set, and never reused for another item."""
    prompt: _Text
    """The question, passed to the model unchanged; unique in the set, together with the earlier
    messages and the system message."""
    system: _Text | None = None
    """System message of the conversation; null for none."""
    messages: Messages | None = None
    """Messages before the prompt, oldest first, in the form of a trace's `messages`; null for
    none."""
    tools: Tools | None = None
    """Definitions of tools that the model may call, in the form of a trace's `tools`; null for
    none."""
    bare_answer: bool = False
    """Whether the whole response is the answer, as in a chat. If false, the answer follows
    `Answer:`, as the prompt template writes it."""
    expected_answer: _Text
    """The correct answer, spelled as a model that follows the prompt would write it."""
    accepted_answers: tuple[_Text, ...] = ()
    """Other spellings of the correct answer."""
    category: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_not_blank)]
    """The skill that the item tests; the report also gives scores by category."""
    difficulty: Literal["easy", "medium", "hard"] | None = None
    """Difficulty in the author's judgement; null if nobody judged it."""
    case_sensitive: bool = False
    """Whether letter case matters, so that "m" is wrong if "M" is expected."""
    group: _Label | None = None
    """Items of one group are not independent, such as questions on one text; statistics resample
    them together. Null: the item is independent."""
    scorer: _Label | dict[str, JsonValue] | None = None
    """The item's own scorer: a name, or an object with `kind` and options. Null: the set's."""
    meta: dict[str, JsonValue] = {}
    """Other facts about the item, which only a scorer may read."""

    @model_validator(mode="after")
    def _can_be_scored(self) -> EvalItem:
        if self.scorer is not None:
            # Scorers are imported only where an item names one.
            from tuneloop.evaluation.scorers.scoring import item_problem

            try:
                problem = item_problem(self.to_item(""), self.scorer)
            except SpecError as error:
                raise ValueError(str(error)) from error
            if problem is not None:
                raise ValueError(problem)
        return self

    @property
    def folded_key(self) -> str:
        """What two equal questions share: prompt, system message and earlier messages, folded."""
        row = self.model_dump(mode="json", include={"system", "messages"})
        return folded_key(self.prompt, row["system"], row["messages"])

    def to_item(self, set_name: str) -> Item:
        """Return the item as scorers and reports need it.

        Args:
            set_name: name of its set in the evaluation.
        """
        chat = {name: value for name in _CHAT if (value := getattr(self, name))}
        if chat:
            chat = self.model_dump(mode="json", include=set(chat))
            chat |= {name: tuple(chat[name]) for name in ("messages", "tools") if name in chat}
        keys = self.model_dump(exclude=set(_CHAT))
        return Item(set=set_name, **keys, **chat)


class GeneratedSet(BaseModel):
    """The task of reasoning-gym and the range of seeds that a set was generated from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    task: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the task."""
    first_seed: Annotated[int, Field(ge=0)]
    """Seed of the first problem."""
    seeds: Annotated[int, Field(ge=1)]
    """Number of seeds, some of which may have given no item."""

    def overlaps(self, task: str, first_seed: int, seeds: int) -> bool:
        """Return whether another range of the same task shares a seed with this one."""
        last, other_last = self.first_seed + self.seeds, first_seed + seeds
        return task == self.task and self.first_seed < other_last and first_seed < last


class SetHeader(BaseModel):
    """The name and version that a set states in its first line."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of the set: letters, digits and `._-`, at most 64."""
    version: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Version of its content: letters, digits and `._-`, at most 64. A changed set gets another
    one."""
    generated: GeneratedSet | None = None
    """Origin of a generated set, by which samples are kept apart from it; null if it is not
    known."""


class _Headed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    eval_set: SetHeader


@dataclass(frozen=True)
class EvalSetFile:
    """The content of an eval set's file."""

    header: SetHeader | None
    """Name and version, if the file states them."""
    items: tuple[EvalItem, ...]
    """The items in file order, at least one."""


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
    return read_eval_set(data, place).items


def read_eval_set(data: bytes, place: str) -> EvalSetFile:
    """Read a whole eval set with its header; see `parse_eval_set`.

    Raises:
        DataError: the file has problems. The message describes the first one and counts the rest.
    """
    header, items, found = _read(data, place)
    if found:
        more = len(found) - 1
        rest = f" ({more} more problem{'s' if more > 1 else ''} in this file)" if more else ""
        raise DataError(found[0] + rest)
    return EvalSetFile(header, tuple(items))


def dump_eval_set(items: Iterable[EvalItem], header: SetHeader | None = None) -> bytes:
    """Serialise an eval set, one item per line; `read_eval_set` reads it."""
    rows: list[dict[str, Any]] = (
        [] if header is None else [{HEADER_KEY: header.model_dump(exclude_none=True)}]
    )
    rows += (_dumped(item) for item in items)
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _dumped(item: EvalItem) -> dict[str, Any]:
    """Return the keys of an item, without the optional ones that have their default."""
    value = item.model_dump(mode="json")
    optional = ("difficulty", "group", "scorer", "meta", *_CHAT)
    return {key: each for key, each in value.items() if each or key not in optional}


def prompts_sha256(items: Iterable[EvalItem]) -> str:
    """Compute the digest of all ids and prompts, which records which eval set an export checked."""
    return hashlib.sha256(b"".join(map(_prompt_line, items))).hexdigest()


def _prompt_line(item: EvalItem) -> bytes:
    row = item.model_dump(mode="json", include={"id", "prompt", "system", "messages", "tools"})
    return dump_line({key: value for key, value in row.items() if value is not None})


def problems(data: bytes, place: str) -> list[str]:
    """List all problems of an eval set, in file order.

    Args:
        data: content of the file.
        place: path or URL of the file, for the messages.

    Returns:
        One sentence for each problem; an empty list if `parse_eval_set` accepts the file.
    """
    return _read(data, place)[2]


def _read(data: bytes, place: str) -> tuple[SetHeader | None, list[EvalItem], list[str]]:
    header: SetHeader | None = None
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
            if HEADER_KEY in value:
                if items or header is not None:
                    what = "names the set, expected that only before the first item"
                    found.append(f"{at}: {what}; remove or move the line")
                else:
                    header = _Headed.model_validate(value).eval_set
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
            if (first := prompt_lines.setdefault(item.folded_key, number)) != number:
                what = f"the prompt is already on line {first}, expected unique prompts"
                found.append(f"{at}: {what}; reword or remove one of the two")
    if not items and not found:
        what = "the file has no items, expected at least one JSON object"
        found.append(f"{place}: {what}; add one item per line")
    return header, items, found


def folded_key(prompt: str, system: str | None, messages: Any) -> str:
    """Return what two equal questions share, whatever width, case and white space they have.

    Args:
        prompt: the last message of the user.
        system: the system message; None for none.
        messages: the messages before the prompt as JSON values; None for none.
    """
    if system is None and not messages:
        return folded(prompt)
    before = dump_line({"system": system, "messages": messages}).decode()
    return f"{folded(before)}\0{folded(prompt)}"


def folded(text: str) -> str:
    """Normalise a prompt so that width, case and white space do not matter.

    Numbers keep their value: `10²` and `102` are two prompts.
    """
    return " ".join(plain_characters(text).casefold().split())
