"""Rules of a selection over compact rows."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.datasets.selection.candidates import Candidate, rank_of
from tuneloop.datasets.selection.pipeline import SelectionResult, select_rows
from tuneloop.datasets.selection.spec import SelectionSpec

PROMPTS = [f"{number:032x}" for number in range(5)]
STORY = (
    "the quick brown fox jumps over the lazy dog while the small grey cat watches from the old"
    " stone wall near the river that runs through the quiet valley"
)


def spec_of(**fields: Any) -> SelectionSpec:
    return SelectionSpec.model_validate(fields)


def select(rows: list[Candidate], seed: int = 0, **fields: Any) -> SelectionResult:
    options = {name: fields.pop(name) for name in ("strategy", "limit") if name in fields}
    return select_rows(rows, spec_of(**fields), seed, **options)


def removed(result: SelectionResult) -> dict[str, int]:
    return {one.rule: one.removed for one in result.account.rules}


def test_without_rules_all_rows_are_selected_in_their_order() -> None:
    rows = [Candidate(id=name) for name in "cab"]
    result = select(rows)
    assert result.ids == ["c", "a", "b"]
    assert result.account.model_dump() == {"considered": 3, "rules": (), "selected": 3}


def test_no_rows() -> None:
    every_rule: dict[str, Any] = {
        "where": {"reward": {"min": 0}},
        "pass_rate": {"min": 0.5},
        "near_duplicates": {},
        "best_of": {"count": 1},
        "caps": {"source": 1},
        "datasets": {"a": 1, "b": 2},
    }
    for result in (select([], **every_rule), select([Candidate("a", dataset="a")], **every_rule)):
        assert result.ids == []
        assert result.account.selected == 0
    assert removed(result) == {
        "where reward": 1, "pass_rate": 0, "near_duplicates": 0, "best_of": 0, "cap source": 0,
        "mix": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "comparison", "ids"),
    [
        ("reward", {"min": 0.5}, "ab"),
        ("reward", {"max": 0.5}, "bc"),
        ("reward", {"min": 0.5, "max": 0.5}, "b"),
        ("reward", {"any_of": [1, 0]}, "ac"),
        ("reward", {"none_of": [1.0]}, "bcd"),
        ("length", {"min": 10}, "b"),
        ("source", {"any_of": ["x", None]}, "acd"),
        ("created_at", {"min": "2026-11-02"}, "bc"),
        ("created_at", {"max": "2026-11-02T00:00:00+01:00"}, "a"),
        ("/flag", {"any_of": [True]}, "a"),
        ("/flag", {"any_of": [1]}, "b"),
        ("/flag", {"min": 1}, "b"),
        ("labels.good", {"any_of": ["yes"]}, "c"),
        ("labels.good", {"none_of": ["yes"]}, "abd"),
        ("scores.exact", {"min": 1}, ""),
    ],
)
def test_where_compares_by_json_equality(field: str, comparison: Any, ids: str) -> None:
    day = "2026-11-0{}T00:00:00.000000Z".format
    rows = [
        Candidate("a", reward=1.0, length=3, source="x", created_at=day(1), values={"/flag": True}),
        Candidate("b", reward=0.5, length=30, source="y", created_at=day(2), values={"/flag": 1}),
        Candidate("c", reward=0, length=3, created_at=day(3), values={"labels.good": "yes"}),
        Candidate("d", values={"/flag": [1]}),
    ]
    result = select(rows, where={field: comparison})
    assert result.ids == list(ids)
    assert removed(result) == {f"where {field}": 4 - len(ids)}


def test_the_account_tells_missing_values_from_failed_ones() -> None:
    rows = [Candidate("a", reward=0.0), Candidate("b"), Candidate("c", reward=1.0)]
    (rule,) = select(rows, where={"reward": {"min": 1}}).account.rules
    assert (rule.removed, rule.missing, rule.left) == (2, 1, 1)


def test_the_pass_rate_counts_traces_that_where_removes() -> None:
    rewards: dict[int, list[float | None]] = {
        0: [1, 1, 1, 1],
        1: [1, 0, 0, 0],
        2: [0, 0],
        3: [None],
        4: [1, None],
    }
    rows = [
        Candidate(f"{prompt}/{n}", PROMPTS[prompt], reward=reward)
        for prompt, all_rewards in rewards.items()
        for n, reward in enumerate(all_rewards)
    ]
    result = select(rows, where={"reward": {"min": 1}}, pass_rate={"min": 0.1, "max": 0.9})
    assert result.ids == ["1/0"]
    result = select(rows, pass_rate={"max": 0.3})
    assert result.ids == ["1/0", "1/1", "1/2", "1/3", "2/0", "2/1"]
    assert result.account.rules[0].missing == 1
    assert select(rows, pass_rate={"min": 1}).ids[-2:] == ["4/0", "4/1"]


def test_best_of_keeps_the_first_of_equal_traces() -> None:
    rewards = [0.5, 1.0, None, 1.0, 1.0, 0.1]
    rows = [Candidate(f"{n}", PROMPTS[0], reward=reward) for n, reward in enumerate(rewards)]
    rows.append(Candidate("other", PROMPTS[1]))
    best = select(rows, best_of={"count": 2})
    assert best.ids == ["1", "3", "other"]
    assert best.account.rules[0].facts == {"prompts": 2, "without_value": 2}
    assert select(rows, best_of={"count": 5}).ids == ["0", "1", "3", "4", "5", "other"]
    drawn = select(rows, 7, best_of={"count": 1}, strategy="random").ids
    first = min("134", key=lambda name: rank_of(7, name))
    assert sorted(drawn) == sorted([first, "other"])


def test_best_of_any_number() -> None:
    numbers = {"text": "9", "low": -(10**400), "one": 1, "true": True, "high": 10**400}
    rows = [Candidate(name, values={"/n": number}) for name, number in numbers.items()]
    assert select(rows, best_of={"count": 2, "by": "/n"}).ids == ["one", "high"]


def test_near_duplicates_keep_the_best_of_each_cluster() -> None:
    texts = [STORY, f"{STORY} today", f"{STORY}, today!", "Something else entirely, and short"]
    rows = [
        Candidate(f"{n}", PROMPTS[n], reward=float(n == 2), prompt="Tell me.", response=text)
        for n, text in enumerate(texts)
    ]
    result = select(rows, near_duplicates={})
    assert result.ids == ["0", "3"]
    assert result.account.rules[0].facts == {"clusters": 2, "largest_cluster": 3}
    assert select(rows, near_duplicates={"keep": 2}).ids == ["0", "1", "3"]
    assert select(rows, near_duplicates={}, best_of={"count": 1}).ids == ["2", "3"]
    assert select(rows, near_duplicates={"text": "prompt"}).ids == ["0"]


def test_caps_keep_the_first_of_each_value() -> None:
    rows = [Candidate(f"{n}", source="x" if n % 3 else None) for n in range(9)]
    assert select(rows, caps={"source": 2}).ids == ["0", "1", "2", "3"]
    both = select(rows, caps={"source": 2, "/k": 1})
    assert both.ids == ["0"]
    assert removed(both) == {"cap /k": 8, "cap source": 0}
    assert both.account.rules[0].facts == {"values": 0, "without_value": 9}
    assert select(rows, caps={"source": 2}).account.rules[0].facts == {
        "values": 1,
        "without_value": 3,
    }


@settings(max_examples=200)
@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=4),
    weights=st.lists(st.sampled_from([0.1, 0.5, 1, 2, 3.3]), min_size=4, max_size=4),
    limit=st.none() | st.integers(1, 100),
)
def test_a_mix_has_shares_in_proportion_to_the_weights(
    counts: list[int], weights: list[float], limit: int | None
) -> None:
    names = [f"d{n}" for n in range(len(counts))]
    rows = [Candidate(f"{name}/{n}", dataset=name)
            for name, count in zip(names, counts, strict=True) for n in range(count)]  # fmt: skip
    random.Random(0).shuffle(rows)
    asked = dict(zip(names, weights, strict=False))
    ids = select(rows, datasets=asked, limit=limit).ids
    whole = sum(asked.values())
    for name, count in zip(names, counts, strict=True):
        got = sum(one.startswith(f"{name}/") for one in ids)
        assert got <= count
        assert abs(got - len(ids) * asked[name] / whole) <= 1
    # A larger total would exceed the limit or need more rows than a dataset has.
    more = len(ids) + 1
    enough = all(
        more * asked[name] / whole <= count - 1e-9
        for name, count in zip(names, counts, strict=True)
    )
    assert not enough or len(ids) == limit


ROWS = st.lists(
    st.builds(
        lambda prompt, reward, source: (prompt, reward, source),
        st.sampled_from(PROMPTS),
        st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([None, "x", "y"]),
    ),
    max_size=30,
)


@settings(max_examples=200)
@given(drawn=ROWS, seed=st.integers(0, 3), strategy=st.sampled_from(["latest", "random"]))
def test_the_account_balances_and_equals_a_plain_selection(
    drawn: list[tuple[str, float | None, str | None]], seed: int, strategy: Any
) -> None:
    rows = [Candidate(f"{n}", *fields[:1], reward=fields[1], source=fields[2])
            for n, fields in enumerate(drawn)]  # fmt: skip
    rules: dict[str, Any] = {
        "where": {"reward": {"min": 0.5}},
        "best_of": {"count": 2},
        "caps": {"source": 3},
    }
    result = select(rows, seed, **rules, strategy=strategy, limit=4)
    account = result.account
    left = account.considered
    for rule in account.rules:
        left -= rule.removed
        assert rule.left == left
    assert account.considered == len(rows)
    assert account.selected == left == len(result.ids)

    ordered = rows if strategy == "latest" else sorted(rows, key=lambda r: rank_of(seed, r.id))
    kept = [row for row in ordered if row.reward is not None and row.reward >= 0.5]
    best = {
        row.id
        for prompt in PROMPTS
        for row in sorted(
            (r for r in kept if r.prompt_key == prompt), key=lambda r: -(r.reward or 0)
        )[:2]
    }
    kept = [row for row in kept if row.id in best]
    expected: list[str] = []
    counts: dict[str | None, int] = {}
    for row in kept:
        counts[row.source] = counts.get(row.source, 0) + 1
        if counts[row.source] <= 3:
            expected.append(row.id)
    assert result.ids == expected[:4]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"where": {"rewards": {"min": 1}}}, "found the field 'rewards', expected reward"),
        ({"where": {"reward": {}}}, "compares nothing"),
        ({"where": {"reward": {"min": "x"}}}, "expected a number for min and max"),
        ({"where": {"created_at": {"min": "soon"}}}, "expected a time such as"),
        ({"where": {"created_at": {"min": 3}}}, "expected a time such as"),
        ({"where": {"/a~b": {"min": 3}}}, "is not a JSON Pointer"),
        ({"where": {"scores.": {"min": 3}}}, "found the field 'scores.'"),
        ({"best_of": {"count": 1, "by": "source"}}, "expected a field of numbers"),
        ({"best_of": {"count": 0}}, "greater than or equal to 1"),
        ({"datasets": {"a": 0}}, "greater than 0"),
        ({"where": {"reward": {"min": float("nan")}}}, "finite"),
        ({"near_duplicate": {}}, "Extra inputs"),
    ],
)
def test_a_wrong_rule_is_refused_with_a_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spec_of(**fields)
