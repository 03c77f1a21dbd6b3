"""Convert a whole dataset; every row becomes an item or is listed with the reason."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tuneloop.errors import DataError, UsageError
from tuneloop.evaluation.sets.converters.formats import CONVERTERS
from tuneloop.evaluation.sets.converters.schema import (
    Converter,
    Draft,
    Dropped,
    Options,
    label_of,
    labelled,
    text_of,
)
from tuneloop.evaluation.sets.schema import EvalItem, folded
from tuneloop.jsonl import iter_jsonl
from tuneloop.storage.rows.arrow_rows import Table
from tuneloop.validation import first_error


@dataclass
class Converted:
    """The result of a conversion."""

    items: list[EvalItem] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> numbers of the rows, from 1 in a table and as lines in a text."""
    rows: int = 0
    left_out: set[str] = field(default_factory=set)
    """Columns with values that JSON does not have, which are not in `meta`."""

    @property
    def dropped_rows(self) -> int:
        """Number of rows that gave no item."""
        return sum(map(len, self.dropped.values()))

    def as_json(self) -> dict[str, Any]:
        """Return the accounts for `--json`."""
        return {
            "rows": self.rows,
            "items": len(self.items),
            "dropped": [{"reason": reason, "rows": rows} for reason, rows in self.dropped.items()],
            "left_out": sorted(self.left_out),
        }


def convert(data: bytes, place: str, kind: str, options: Options, *, prefix: str) -> Converted:
    """Convert a dataset.

    Args:
        data: content of the file.
        place: its path or URL, for messages.
        kind: key of `CONVERTERS`.
        options: what the user states about the dataset.
        prefix: first part of the ids of rows that have none; the number of the row follows.

    Raises:
        UsageError: the options do not fit the kind.
        DataError: the file cannot be read, or no row gives an item.
    """
    converter = CONVERTERS[kind]
    check_options(kind, converter, options)
    found = Converted()
    ids: dict[str, int] = {}
    prompts: dict[str, int] = {}
    for number, row in _rows(data, place, converter, options, found):
        found.rows += 1
        try:
            item = _item(converter.draft(row, options), options, f"{prefix}-{number:05d}", found)
            first = ids.setdefault(item.id, number)
            if first != number:
                raise Dropped("its id is that of an earlier row")
            if prompts.setdefault(folded(item.prompt), number) != number:
                raise Dropped("its question is that of an earlier row")
        except Dropped as reason:
            found.dropped.setdefault(str(reason), []).append(number)
        else:
            found.items.append(item)
    if not found.items:
        why = next(iter(found.dropped), "the file has no rows")
        raise DataError(
            f"{place}: no row became an item, expected rows of {converter.what}; the first reason"
            f" is: {why}"
        )
    return found


def check_options(kind: str, converter: Converter, options: Options) -> None:
    """Raise UsageError if options do not fit the kind of dataset."""
    unknown = [key for key in options.columns if key not in converter.columns]
    if unknown:
        known = ", ".join(converter.columns) or f"no --columns, because {kind} has fixed keys"
        raise UsageError(f"--columns {unknown[0]}: unknown with --from {kind}, expected {known}")
    missing = [key for key in converter.required if key not in options.columns]
    if missing:
        raise UsageError(
            f"--columns: names no column for {missing[0]}, expected one, such as"
            " prompt=question,expected_answer=answer"
        )
    has_category = options.category or options.category_from or "category" in options.columns
    if not has_category:
        raise UsageError(
            "eval-sets convert: found no category, expected one for every item; give --category"
            " NAME, or --category-from KEY"
        )


def _rows(
    data: bytes, place: str, converter: Converter, options: Options, found: Converted
) -> Iterator[tuple[int, dict[str, Any]]]:
    if converter.read == "jsonl":
        return iter_jsonl(io.BytesIO(data), place)
    return _table_rows(data, place, options, found)


def _table_rows(
    data: bytes, place: str, options: Options, found: Converted
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a Parquet file, without columns of bytes, such as images."""
    table = Table(data, place, parquet=True)
    absent = [name for name in options.columns.values() if name not in table.names]
    if absent:
        raise UsageError(
            f"--columns: {place} has no column {absent[0]!r}, expected one of:"
            f" {', '.join(table.names)}"
        )
    found.left_out |= table.byte_columns
    kept = [name for name in table.names if name not in found.left_out]
    return enumerate(table.rows(kept), start=1)


def _item(draft: Draft, options: Options, own_id: str, found: Converted) -> EvalItem:
    """Make an item of a draft; raises Dropped."""
    prompt = text_of(draft.prompt, "the question")
    values = {key: value for key, value in draft.values.items() if value is not None}
    meta = _json(dict(draft.meta), found)
    if draft.choices is not None:
        if not isinstance(draft.choices, list):
            raise Dropped("the choices are no list")
        choices = labelled(draft.choices)
        answers = [label_of(draft.answers[0], choices)] if draft.answers else []
        if len(draft.answers) > 1:
            raise Dropped("the answer names several choices, expected one")
        if not all(text in prompt for text in choices.values()):
            lines = "\n".join(f"{label}) {text}" for label, text in choices.items())
            prompt = f"{prompt.rstrip()}\n\n{lines}"
        values["scorer"] = {"kind": "choice", "choices": choices}
    else:
        answers = list(dict.fromkeys(_answer(each, options) for each in draft.answers))
    if not answers:
        raise Dropped("there is no answer")
    values["category"] = _category(values.get("category"), draft, options)
    item_id = own_id if draft.id in (None, "") else text_of(draft.id, "the id")
    try:
        return EvalItem(
            id=item_id,
            prompt=prompt,
            expected_answer=answers[0],
            accepted_answers=tuple(answers[1:]),
            **{**values, "meta": meta},
        )
    except ValidationError as e:
        raise Dropped(first_error(e)) from e


def _answer(value: object, options: Options) -> str:
    text = text_of(value, "the answer")
    if options.answer_after is None:
        return text
    _, mark, after = text.rpartition(options.answer_after)
    if not mark:
        raise Dropped(f"the answer has no {options.answer_after!r}")
    return after.strip()


def _category(stated: object, draft: Draft, options: Options) -> str:
    found = stated
    if options.category_from is not None and found is None:
        found = draft.meta.get(options.category_from)
        doc = draft.meta.get("doc")
        if found is None and isinstance(doc, dict):
            found = doc.get(options.category_from)
    if found is None:
        found = options.category
    if found is None:
        raise Dropped("there is no category, and --category gives none")
    return text_of(found, "the category")


def _json(value: dict[str, Any], found: Converted) -> dict[str, Any]:
    """Return a JSON object; dates become text, and what JSON cannot hold is dropped by key."""
    kept = {}
    for key, each in value.items():
        try:
            kept[str(key)] = json.loads(json.dumps(each, default=_date, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            found.left_out.add(str(key))
    return kept


def _date(value: object) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError


def reasons(found: Converted, shown: int = 8) -> Iterable[str]:
    """Describe what was dropped, the most frequent reason first; rows are listed up to a number."""
    for reason, rows in sorted(found.dropped.items(), key=lambda each: (-len(each[1]), each[1])):
        listed = ", ".join(map(str, rows[:shown]))
        more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
        yield f"{len(rows)} dropped: {reason} (row{'s' * (len(rows) > 1)} {listed}{more})"
    if found.left_out:
        yield f"not kept in meta: {', '.join(sorted(found.left_out))}, which JSON cannot hold"
