"""Selection over the whole store, with JSON equality and a reproducible order."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.builders import meta_of
from tuneloop.datasets.schema import BuildRequest, TraceRow
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.store.db.select import json_equal
from tuneloop.traces.schema import ReasoningTrace


def store(database: Database, now: datetime, *metas: Any, key: str | None = None) -> list[str]:
    """Store traces with these metas; returns their ids."""
    batch = [
        {
            "trace_version": "1.0",
            "prompt": str(number),
            "final_answer": "x",
            "steps": [
                {"i": 5, "type": "t", "content": "b"},
                {"i": 1, "type": "t", "content": "a"},
            ],
            "meta": meta,
        }
        for number, meta in enumerate(metas)
    ]
    traces = [new_trace(ReasoningTrace.model_validate(one)) for one in batch]
    return [one.id for one in database.insert_batch(traces, now=now, key=key)]


def selected(database: Database, seed: int = 0, **fields: Any) -> list[TraceRow]:
    request = BuildRequest(dataset_name="d", dataset_version="v", **fields)
    with database.selection(request, seed) as selection:
        rows = list(selection.rows)
        assert selection.count == len(rows)
    return rows


def ids(rows: list[TraceRow]) -> list[str]:
    return [row.id for row in rows]


def test_latest_is_newest_first(database: Database, now: datetime) -> None:
    stored = store(database, now, *range(0), *[None] * 5)
    assert ids(selected(database, limit=3)) == stored[:1:-1]
    assert ids(selected(database, limit=100)) == stored[::-1]


def test_rows_hold_the_trace_with_ordered_steps(database: Database, now: datetime) -> None:
    (trace_id,) = store(database, now, {"é": 1.5})
    (row,) = selected(database)
    assert json.loads(row.line()) == {
        "id": trace_id,
        "created_at": "2026-11-22T11:22:10.546379Z",
        "trace_version": "1.0",
        "prompt": "0",
        "final_answer": "x",
        "steps": [{"i": 1, "type": "t", "content": "a"}, {"i": 5, "type": "t", "content": "b"}],
        "meta": {"é": 1.5},
    }


METAS: list[Any] = [
    None,
    {},
    {"k": None},
    {"k": True},
    {"k": False},
    {"k": 1},
    {"k": 1.0},
    {"k": 0},
    {"k": "1"},
    {"k": "true"},
    {"k": ""},
    {"k": [1, 2]},
    {"k": [1.0, 2]},
    {"k": [2, 1]},
    {"k": {"a": 1, "b": [True]}},
    {"k": {"b": [True], "a": 1.0}},
    {"k": {"a": 1, "b": [1]}},
    {"k": {"a": 1}},
    {"k": 2**53 + 1},
    {"k": 10**30},
    {"k": 1e30},
    {"other": {"k": 1}},
    {"other": '"k":1'},
    {'quo"te\\': "é\n"},
    {"a.b": 1},
    {"a": {"b": 1}},
    {"$.k": 1},
    {"m": {"name": "x", "tags": ["p", {"q": 1}], "": 0, "~/": 2}},
    {"m": {"name": "y", "tags": ["q"], "0": "p", "-1": 1}},
    {"m": ["p", [["x"]]]},
    {"0": "zero", "/k": 1},
]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"k": True}, [{"k": True}]),
        ({"k": False}, [{"k": False}]),
        ({"k": None}, [{"k": None}]),
        ({"k": 1}, [{"k": 1}, {"k": 1.0}]),
        ({"k": 1.0}, [{"k": 1}, {"k": 1.0}]),
        ({"k": 0}, [{"k": 0}]),
        ({"k": "1"}, [{"k": "1"}]),
        ({"k": ""}, [{"k": ""}]),
        ({"k": [1, 2]}, [{"k": [1, 2]}, {"k": [1.0, 2]}]),
        ({"k": {"a": 1, "b": [True]}}, [METAS[14], METAS[15]]),
        ({"k": 2**53 + 1}, [{"k": 2**53 + 1}]),
        ({"k": 2**53}, []),
        ({"k": 10**30}, [{"k": 10**30}, {"k": 1e30}]),
        ({'quo"te\\': "é\n"}, [{'quo"te\\': "é\n"}]),
        ({"a.b": 1}, [{"a.b": 1}]),
        ({"a": {"b": 1}}, [{"a": {"b": 1}}]),
        ({"$.k": 1}, [{"$.k": 1}]),
        ({"k": "x' OR 1=1 --"}, []),
        ({"/k": True}, [{"k": True}]),
        ({"/a/b": 1}, [{"a": {"b": 1}}]),
        ({"/m/name": "x"}, [METAS[27]]),
        ({"/m/tags/0": "p"}, [METAS[27]]),
        ({"/m/tags/1/q": 1.0}, [METAS[27]]),
        ({"/m/tags/1": {"q": 1}}, [METAS[27]]),
        ({"/m/tags/00": "p"}, []),
        ({"/m/tags/-1": "q"}, []),
        ({"/m/tags/99999999999999999999": "p"}, []),
        ({"/m/-1": 1}, [METAS[28]]),
        ({"/m/0": "p"}, [METAS[28], METAS[29]]),
        ({"/m/1/0/0": "x"}, [METAS[29]]),
        ({"/m/": 0}, [METAS[27]]),
        ({"/m/~0~1": 2}, [METAS[27]]),
        ({"/m/name/0": "x"}, []),
        ({"/m": ["p", [["x"]]]}, [METAS[29]]),
        ({"/0": "zero"}, [METAS[30]]),
        ({"0": "zero"}, [METAS[30]]),
        ({"/~1k": 1}, [METAS[30]]),
    ],
)
def test_filters_by_json_equality(
    database: Database, now: datetime, filters: dict[str, Any], expected: list[Any]
) -> None:
    store(database, now, *METAS)
    found = [meta_of(row) for row in selected(database, filters=filters)][::-1]
    as_text = [json.dumps(one, sort_keys=True) for one in found]  # In Python, 1 == 1.0 == True.
    assert as_text == [json.dumps(one, sort_keys=True) for one in expected]


def test_a_path_that_is_no_pointer_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a JSON Pointer, expected ~0 for ~"):
        BuildRequest(dataset_name="d", dataset_version="v", filters={"/a~b": 1})
    BuildRequest(dataset_name="d", dataset_version="v", filters={"a~b": 1})


def test_all_filters_have_to_match(database: Database, now: datetime) -> None:
    store(database, now, {"a": 1, "b": 2}, {"a": 1}, {"b": 2}, None)
    assert [meta_of(row) for row in selected(database, filters={"a": 1, "b": 2})] == [
        {"a": 1, "b": 2}
    ]


def test_finds_the_rare_and_the_oldest_beyond_any_window(database: Database, now: datetime) -> None:
    rare = store(database, now, *[{"rare": True}] * 3)
    for _ in range(4):
        store(database, now, *[{"rare": False}] * 1000)
    assert ids(selected(database, filters={"rare": True}, limit=2)) == rare[:0:-1]
    drawn = selected(database, 1, selection_strategy="random", limit=2000)
    positions = [row.created_at for row in drawn]
    middle = selected(database, limit=2000)[-1].created_at
    assert 800 < sum(one < middle for one in positions) < 1200
    assert len(set(ids(drawn))) == 2000


def test_random_follows_from_seed_and_ids_alone(
    database: Database, now: datetime, new_database_url: Callable[[], str], tmp_path: Path
) -> None:
    other = Database(new_database_url())
    store(database, now, *[None] * 50, key="a")
    store(database, now, *[None] * 50, key="b")
    store(other, now + timedelta(5), *[None] * 50, key="b")
    store(other, now + timedelta(6), *[None] * 50, key="a")

    def draw(where: Database, seed: int) -> list[str]:
        return ids(selected(where, seed, selection_strategy="random", limit=10))

    assert draw(database, 1) == draw(database, 1) == draw(other, 1)
    assert draw(database, 1) != draw(database, 2)
    other.close()


def test_random_is_uniform(database: Database, now: datetime) -> None:
    stored = store(database, now, *[None] * 10, key="uniform")
    counts = dict.fromkeys(stored, 0)
    for seed in range(400):
        for row in selected(database, seed, selection_strategy="random", limit=3):
            counts[row.id] += 1
    assert all(80 < count < 160 for count in counts.values())


def test_the_selection_is_of_one_moment(database: Database, now: datetime) -> None:
    stored = store(database, now, None, None)
    request = BuildRequest(dataset_name="d", dataset_version="v")
    with database.selection(request, 0) as selection:
        store(database, now, None)
        assert selection.count == 2
        assert ids(list(selection.rows)) == stored[::-1]
    assert len(selected(database)) == 3


def test_memory_does_not_grow_with_the_selection(database: Database, now: datetime) -> None:
    trace = {
        "trace_version": "1",
        "prompt": "p" * 10_000,
        "final_answer": "x",
        "steps": [{"i": 0, "type": "t", "content": "c"}],
    }
    batch = [new_trace(ReasoningTrace.model_validate(trace))] * 1000
    for _ in range(3):
        database.insert_batch(batch, now=now)
    request = BuildRequest(dataset_name="d", dataset_version="v", limit=10_000)
    tracemalloc.start()
    with database.selection(request, 0) as selection:
        assert sum(1 for _ in selection.rows) == 3000
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20 << 20  # The rows have 30 MB.


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -2.0, 0.5])
    | st.sampled_from(["", "1", "true", "null", "é", '"']),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def spelled(value: Any) -> str:
    """Build JSON text that is equal exactly if the values are equal."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{spelled(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(float(value) + 0.0)
    return json.dumps(value)


@settings(max_examples=300, deadline=None)
@given(json_values, json_values)
def test_json_equality_is_equality_of_canonical_text(left: Any, right: Any) -> None:
    assert json_equal(left, right) == (spelled(left) == spelled(right))
    assert json_equal(left, left)
