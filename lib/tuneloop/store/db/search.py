"""Search for text in traces, with the same results on every database.

The database only returns rows, newest first. This module decides whether a row matches: it compares
decoded fields by `str.casefold`, so `STRASSE` finds `Straße` on both databases.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from tuneloop.store.db.cursor import Cursor
from tuneloop.store.memory import decoding

BEGINNING_CHARACTERS = 240
"""Maximum length of a prompt or an answer in a list of results."""
CONTEXT_CHARACTERS = 60
"""Characters shown on each side of a match."""

_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""Characters that canonical JSON escapes, so a search for them must decode the JSON first."""


class Budget(NamedTuple):
    """Limits in rows and seconds after which a search stops."""

    rows: int
    seconds: float


class Match(NamedTuple):
    """The first occurrence of the searched text in a trace, with the text around it."""

    field: str
    before: str
    text: str
    after: str


class SearchResult(NamedTuple):
    """One trace in a list of results."""

    id: str
    created_at: datetime
    prompt: str
    """First characters of the prompt."""
    answer: str
    """First characters of the final answer."""
    source: str | None
    match: Match | None
    """None if the query is empty, or if only the trace's id matches."""


class SearchPage(NamedTuple):
    """The results found within the budget of one search."""

    results: list[SearchResult]
    scanned_rows: int
    next: Cursor | None
    """Position to continue the search from; None if the oldest trace was reached."""


class Query:
    """The text of a search."""

    def __init__(self, text: str) -> None:
        """Create a query for a text, which may be empty."""
        self._folded = text.casefold()
        self._in_json = not _ESCAPED.search(self._folded)
        self.id = _id_of(text)
        """The text as a trace id, if it is one."""

    def match(self, row: Any) -> SearchResult | None:
        """Convert a row of table `traces` to a search result; returns None if it does not match."""
        # This check excludes nearly all rows without decoding their JSON.
        if self._in_json and row.id != self.id and self._folded not in row.payload.casefold():
            return None
        with decoding(len(row.payload)):
            return self._compare(row, from_json(row.payload))

    def _compare(self, row: Any, payload: dict[str, Any]) -> SearchResult | None:
        source = (payload["meta"] or {}).get("source")
        found = find(self._folded, payload) if self._folded else None
        if self._folded and found is None and row.id != self.id:
            return None
        return SearchResult(
            id=row.id,
            created_at=row.created_at,
            prompt=payload["prompt"][:BEGINNING_CHARACTERS],
            answer=payload["final_answer"][:BEGINNING_CHARACTERS],
            source=source if isinstance(source, str) else None,
            match=found,
        )


def _id_of(text: str) -> str | None:
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        return None


def find(folded: str, payload: dict[str, Any]) -> Match | None:
    """Find the first match of a casefolded text in a trace's prompt, steps or final answer."""
    for field, text in _fields(payload):
        at = text.casefold().find(folded)
        if at >= 0:
            start, end = _place(text, at), _place(text, at + len(folded) - 1) + 1
            before = text[max(0, start - CONTEXT_CHARACTERS) : start]
            return Match(field, before, text[start:end], text[end : end + CONTEXT_CHARACTERS])
    return None


def _fields(payload: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "prompt", payload["prompt"]
    for step in sorted(payload["steps"], key=lambda step: step["i"]):
        yield f"step {step['i']}", step["content"]
    yield "final answer", payload["final_answer"]


def _place(text: str, folded_place: int) -> int:
    """Map an index of the casefolded text to the original text; casefolding can add characters."""
    if len(text.casefold()) == len(text):
        return folded_place
    for place, character in enumerate(text):
        folded_place -= len(character.casefold())
        if folded_place < 0:
            return place
    return len(text)
