"""Search: ignores case, works the same on every database, and is bounded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.store.requests import Make
from tuneloop.store.db import search
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.store.db.search import Budget
from tuneloop.traces.schema import ReasoningTrace


def find(database: Database, text: str, **options: Any) -> list[str]:
    budget = options.pop("budget", Budget(10_000, 60))
    return [
        result.prompt
        for result in database.search(text, limit=50, budget=budget, **options).results
    ]


def put(database: Database, *traces: dict[str, Any]) -> list[str]:
    batch = [new_trace(ReasoningTrace.model_validate(trace)) for trace in traces]
    return [
        stored.id for stored in database.insert_batch(batch, now=datetime(2026, 11, 22, tzinfo=UTC))
    ]


@pytest.mark.parametrize(
    ("needle", "text"),
    [
        ("STRASSE", "die Straße entlang"),
        ("straße", "DIE STRASSE"),
        ("ß", "ss"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("i̇", "İ"),
        ('say "no"', 'they SAY "NO" twice'),
        ("back\\slash", "a BACK\\SLASH"),
        ("two\nlines", "of TWO\nLINES"),
        ("מה", "כמה זה"),
        ("🟡", "a 🟡 b"),
        ("%", "100 %"),
        ("_", "a_b"),
        ("<b>", "<B>"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "final_answer", "step"])
def test_search_finds_a_text_whatever_its_case(
    database: Database, make_trace: Make, needle: str, text: str, field: str
) -> None:
    fields = {field: text}
    if field == "step":
        fields = {"steps": [{"i": 4, "type": "t", "content": text}]}  # type: ignore[dict-item]
    put(database, make_trace(1), make_trace(2, **fields), make_trace(3))
    (result,) = database.search(needle, limit=50, budget=Budget(100, 60)).results
    assert result.match is not None
    assert result.match.field == {"final_answer": "final answer", "step": "step 4"}.get(
        field, field
    )
    assert result.match.text.casefold() == needle.casefold() or needle == "ß"
    assert f"{result.match.before}{result.match.text}{result.match.after}" == text


def test_search_looks_at_nothing_else(database: Database, make_trace: Make) -> None:
    steps = [{"i": 0, "type": "needle", "content": "add one"}]
    put(database, make_trace(meta={"needle": "needle"}, steps=steps, trace_version="needle"))
    assert find(database, "needle") == []
    assert find(database, "prompt") == []
    assert find(database, "") == ["What is 0 + 1?"]


def test_search_by_source_is_exact(database: Database, make_trace: Make) -> None:
    sources = ["a", "A", 'quo"ted', 1, None, {"source": "a"}, ["a"]]
    put(
        database,
        *(make_trace(n, meta={"source": s, "x": {"source": "a"}}) for n, s in enumerate(sources)),
    )
    put(database, make_trace(99, meta=None), make_trace(98, prompt='"source":"a"', meta={}))
    assert find(database, "", source="a") == ["What is 0 + 1?"]
    assert find(database, "", source='quo"ted') == ["What is 2 + 1?"]
    assert find(database, "what IS", source="A") == ["What is 1 + 1?"]


def test_an_id_finds_its_trace_first_however_old(database: Database, make_trace: Make) -> None:
    (old,) = put(database, make_trace(0))
    put(database, *(make_trace(n) for n in range(1, 30)), make_trace(30, prompt=f"see {old}"))
    assert find(database, old.upper(), budget=Budget(5, 60)) == [
        "What is 0 + 1?",
        f"see {old}",
    ]
    assert find(database, old[:-1]) == [f"see {old}"]


def test_a_search_goes_on_where_it_stopped(
    database: Database, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneloop.store.db.database.SEARCH_WINDOW_ROWS", 7)
    put(database, *(make_trace(n) for n in range(40)))
    seen, before, rounds = [], None, 0
    while True:
        found = database.search("9 +", limit=2, before=before, budget=Budget(11, 60))
        seen += [result.prompt for result in found.results]
        before, rounds = found.next, rounds + 1
        assert found.scanned_rows <= 11
        if before is None:
            break
        put(database, make_trace(1000 + rounds, prompt="19 + newer"))
    assert seen == [f"What is {n} + 1?" for n in (39, 29, 19, 9)]
    assert database.search("", limit=100, budget=Budget(10_000, 60)).next is None


def test_time_ends_a_search_too(database: Database, make_trace: Make) -> None:
    put(database, *(make_trace(n) for n in range(5)))
    found = database.search("nothing", limit=2, budget=Budget(100, 0.0))
    assert (found.scanned_rows, found.next is None) == (1, False)


def test_a_place_in_folded_text_is_found_again() -> None:
    payload = {"prompt": "ßßßX", "steps": [], "final_answer": ""}
    assert search.find("x", payload) == ("prompt", "ßßß", "X", "")
    assert search.find("sx", payload) == ("prompt", "ßß", "ßX", "")
