"""Builds by rules on the quality of traces, on both databases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tuneloop.datasets.schema import BuildRequest
from tuneloop.datasets.selection.account import SelectionAccount
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.store.db.labels import NewLabel
from tuneloop.store.db.scores import NewScore
from tuneloop.traces.schema import ReasoningTrace

STORY = (
    "the quick brown fox jumps over the lazy dog while the small grey cat watches from the old"
    " stone wall near the river that runs through the quiet valley"
)


def store(database: Database, now: datetime, *fields: dict[str, Any]) -> list[str]:
    """Store traces with these fields; returns their ids."""
    batch = []
    for number, one in enumerate(fields):
        trace = {
            "trace_version": "1.1",
            "prompt": f"prompt {number}",
            "final_answer": "x",
            "steps": [{"i": 0, "type": "t", "content": f"step {number}"}],
            **one,
        }
        batch.append(new_trace(ReasoningTrace.model_validate(trace)))
    return [one.id for one in database.insert_batch(batch, now=now)]


def select(
    database: Database, members: Any = (), seed: int = 0, **fields: Any
) -> tuple[list[str], SelectionAccount]:
    request = BuildRequest(dataset_name="d", dataset_version="v", **fields)
    with database.selection(request, seed, members) as selection:
        rows = [row.id for row in selection.rows]
        assert selection.account is not None
        assert selection.count == selection.account.selected == len(rows)
        return rows, selection.account


def removed(account: SelectionAccount) -> dict[str, int]:
    left = account.considered
    for rule in account.rules:
        left -= rule.removed
        assert left == rule.left
    return {rule.rule: rule.removed for rule in account.rules}


def test_traces_of_evaluations_are_left_out_unless_asked(database: Database, now: datetime) -> None:
    sources = ["human", "evaluation", None, "evaluation", "Evaluation"]
    metas = [{} if source is None else {"source": source} for source in sources]
    ids = store(database, now, *({"meta": meta} for meta in metas))
    rows, account = select(database)
    assert rows == [ids[4], ids[2], ids[0]]
    assert removed(account) == {"evaluation": 2, "limit": 0}
    assert select(database, selection={})[0] == rows
    for asked in (
        {"include_evaluation": True},
        {"filters": {"source": "evaluation"}},
        {"filters": {"/source": "evaluation"}},
        {"selection": {"where": {"source": {"any_of": ["evaluation"]}}}},
    ):
        rows, account = select(database, **asked)
        assert ids[1] in rows
        assert "evaluation" not in removed(account)


@pytest.mark.parametrize(
    ("field", "comparison", "expected"),
    [
        ("reward", {"min": 0.5}, [2, 0]),
        ("reward", {"max": 0.5}, [2, 1]),
        ("length", {"min": 100}, [3]),
        ("source", {"any_of": ["a"]}, [0]),
        ("source", {"none_of": ["a"]}, [3, 2, 1]),
        ("model_digest", {"any_of": ["sha256:1"]}, [1]),
        ("/model/name", {"any_of": ["é🟡"]}, [2]),
        ("/tags/1", {"min": 2}, [3]),
        ("created_at", {"min": "2026-11-22T11:22:10.546381Z"}, [3, 2]),
        ("labels.good", {"any_of": [True]}, [3, 0]),
        ("labels.good", {"any_of": [False]}, [2]),
        ("labels.good", {"none_of": [False]}, [3, 1, 0]),
        ("labels.reviewed", {"any_of": ["yes"]}, [3]),
        ("scores.exact", {"min": 1}, [1]),
        ("scores.exact", {"max": 0.5}, [0]),
        ("scores.none", {"min": 0}, []),
    ],
)
def test_comparisons_read_all_fields(
    database: Database, now: datetime, field: str, comparison: Any, expected: list[int]
) -> None:
    ids = store(
        database,
        now,
        {"reward": 1.0, "meta": {"source": "a"}, "labels": {"good": False}},
        {"reward": 0.0, "meta": {"source": "b", "model_digest": "sha256:1"}},
        {"reward": 0.5, "meta": {"model": {"name": "é🟡"}}, "labels": {"good": False}},
        {"final_answer": "ß" * 100, "meta": {"tags": [1, 2.5]}, "labels": {"good": True}},
    )
    scores = [(0, "exact", 1.0), (0, "exact", 0.25), (0, "other", 9), (1, "exact", 1.0)]
    database.scores.add(
        [NewScore(ids[number], name, score, "{}") for number, name, score in scores], now=now
    )
    given = [(3, "reviewed", '"no"', "a"), (3, "reviewed", '"yes"', "b"), (0, "good", "true", "a")]
    given.append((3, "reviewed", '"skip"', "c"))  # which replaces nothing
    database.labels.add(
        [NewLabel(ids[number], name, value, who, "") for number, name, value, who in given],
        now=now,
    )
    rows, account = select(database, selection={"where": {field: comparison}})
    assert rows == [ids[number] for number in expected]
    assert removed(account)[f"where {field}"] == 4 - len(expected)


def test_best_of_and_pass_rate_go_by_prompt(database: Database, now: datetime) -> None:
    easy, hard = {"prompt": "easy"}, {"prompt": "easy", "system": "Be brief."}
    ids = store(
        database,
        now,
        *({**easy, "reward": 1.0} for _ in range(3)),
        *({**hard, "reward": reward} for reward in (1.0, 0.0, 0.0, 1.0)),
        {"prompt": "none"},
    )
    rules = {"pass_rate": {"max": 0.5}, "best_of": {"count": 1}}
    rows, account = select(database, selection=rules)
    assert rows == [ids[6]]
    assert removed(account) == {
        "evaluation": 0, "pass_rate": 4, "best_of": 3, "limit": 0,
    }  # fmt: skip


def test_near_duplicates_compare_the_whole_trace(database: Database, now: datetime) -> None:
    steps = [[{"i": 0, "type": "t", "content": text}] for text in (STORY, f"{STORY}!", "short")]
    ids = store(database, now, *({"prompt": "p", "steps": each} for each in steps), {})
    rows, account = select(database, selection={"near_duplicates": {}})
    assert rows == [ids[3], ids[2], ids[1]]
    assert account.rules[1].facts == {"clusters": 3, "largest_cluster": 2}


def test_a_parent_dataset_without_what_was_removed(database: Database, now: datetime) -> None:
    ids = store(database, now, *[{}] * 6)
    database.delete(ids[0])
    members = [(number, trace_id) for number, trace_id in enumerate(ids[:3])]
    members += [(1, ids[0]), (2, ids[3])]
    spec = {"datasets": {"a": 1, "b": 1, "c": 1}}
    rows, account = select(
        database, [(0, one) for one in ids[:4]], selection={"datasets": {"a": 1}}
    )
    assert rows == ids[3:0:-1]
    assert removed(account) == {"datasets": 2, "evaluation": 0, "limit": 0}
    assert account.rules[0].facts == {"not_in_store": 1}
    # Dataset `a` has only a trace that was deleted, so no mix in proportion exists.
    rows, account = select(database, members, selection=spec)
    assert rows == []
    assert removed(account)["mix"] == 3


def test_a_mix_is_the_same_for_the_same_seed(database: Database, now: datetime) -> None:
    ids = store(database, now, *[{}] * 30)
    members = [(0 if n < 20 else 1, one) for n, one in enumerate(ids)]
    asked: dict[str, Any] = {
        "selection": {"datasets": {"a": 3, "b": 1}},
        "selection_strategy": "random",
        "limit": 12,
    }
    rows, _ = select(database, members, 3, **asked)
    assert select(database, members, 3, **asked)[0] == rows
    assert select(database, members, 4, **asked)[0] != rows
    assert sum(one in ids[:20] for one in rows) == 9
    assert len(set(rows)) == 12


def test_many_traces_pass_in_pages(database: Database, now: datetime) -> None:
    for start in range(5):
        store(database, now, *({"reward": float(n % 2), "prompt": f"{n % 700}/{start}"}
                               for n in range(1000)))  # fmt: skip
    rows, account = select(
        database,
        selection={"where": {"length": {"min": 1}}, "best_of": {"count": 1}},
        selection_strategy="random",
        limit=3000,
    )
    assert removed(account) == {
        "evaluation": 0, "where length": 0, "best_of": 1500, "limit": 500,
    }  # fmt: skip
    assert len(set(rows)) == 3000
