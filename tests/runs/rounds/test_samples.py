"""Test what becomes of samples: what can be trained on, the selection and the matched control."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import letter_trace, publish_dataset
from tuneloop import jsonl
from tuneloop.datasets.read import iter_rows, load_manifest
from tuneloop.datasets.selection.spec import SelectionSpec
from tuneloop.errors import DataError
from tuneloop.runs.rounds.samples import (
    CREATED_AT,
    choose,
    dataset_request,
    draw,
    read_pool,
)
from tuneloop.runs.rounds.samples import (
    publish_dataset as publish_samples,
)

RULES = SelectionSpec.model_validate({"where": {"reward": {"min": 1}}})


def sample(number: int, *, reward: float | None = 1.0, text: str = "", **meta: Any) -> bytes:
    """Build a line of sampled.jsonl."""
    return jsonl.dump_line(
        {
            "trace_version": "1.0",
            "prompt": f"prompt {number % 3}",
            "final_answer": text or f"answer {number} \N{GRINNING FACE} \u05d0",
            "steps": [{"i": 0, "type": "reason", "content": "step\r\n<end_of_turn>"}],
            "meta": {
                "sample_id": f"00000000-0000-5000-8000-{number:012d}",
                "state": "correct" if reward else "wrong",
                "hit_token_limit": False,
                "source": "sample",
                "round": number % 2,
                **({} if reward is None else {"reward": reward}),
                **meta,
            },
        }
    )


def test_a_pool_accounts_for_every_sample() -> None:
    lines = [
        sample(0),
        sample(1, reward=0.0),
        sample(2, reward=0.0, state="no_answer"),
        sample(3, reward=None, state="error"),
        sample(4, reward=0.0, state="truncated", hit_token_limit=True),
        sample(5, hit_token_limit=True),
        sample(6, text="same"),
        sample(9, text="same"),
    ]
    pool = read_pool(lines, "sampled.jsonl")
    assert (pool.total, pool.unusable, pool.repeated, pool.full_reward) == (8, 4, 1, 4)
    assert len(pool.samples) == 3
    chosen = choose(pool, RULES, 0)
    assert sorted(each.id[-1] for each in chosen.samples) == ["0", "6"]
    assert chosen.account.considered == 3


def test_samples_are_told_apart_by_what_is_before_their_prompt() -> None:
    traces: list[dict[str, Any]] = [
        {},
        {"system": "Be brief"},
        {"messages": [{"role": "user", "content": "\u05d0"}]},
        {"messages": [{"role": "user", "content": "\u05d0"}]},
    ]
    lines = [
        jsonl.dump_line({**json.loads(sample(3 * number, text="same")), **more})
        for number, more in enumerate(traces)
    ]
    pool = read_pool(lines, "sampled.jsonl")
    assert (len(pool.samples), pool.repeated) == (3, 1)
    best = SelectionSpec.model_validate({"best_of": {"count": 1}})
    assert len(choose(pool, best, 0).samples) == 3


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", sample(0).replace(b"sample_id", b"id")])
def test_a_line_that_is_no_sample_is_named(line: bytes) -> None:
    with pytest.raises(DataError, match=r"sampled\.jsonl:2: is not a sample"):
        read_pool([sample(0), line], "sampled.jsonl")


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_control_has_as_many_samples_drawn_from_all(rewards: list[float], seed: int) -> None:
    pool = read_pool([sample(n, reward=r) for n, r in enumerate(rewards)], "x")
    chosen = choose(pool, RULES, seed)
    assert len(chosen.samples) == rewards.count(1.0)
    control = draw(pool, len(chosen.samples), seed)
    ids = [each.id for each in control.samples]
    assert len(set(ids)) == len(ids) == len(chosen.samples)
    assert {*ids} <= {each.id for each in pool.samples}
    again = read_pool([sample(n, reward=r) for n, r in enumerate(rewards)], "y")
    assert [each.id for each in draw(again, len(ids), seed).samples] == ids


def test_rules_see_meta_and_another_seed_draws_others() -> None:
    pool = read_pool([sample(n) for n in range(40)], "x")
    rules = SelectionSpec.model_validate(
        {"where": {"/round": {"any_of": [1]}, "source": {"any_of": ["sample"]}}}
    )
    assert len(choose(pool, rules, 0).samples) == 20
    assert len(choose(pool, rules, 0, 5).samples) == 5
    best = SelectionSpec.model_validate({"best_of": {"count": 2}})
    assert len(choose(pool, best, 0).samples) == 6
    ids = [[each.id for each in draw(pool, 10, seed).samples] for seed in (0, 1)]
    assert ids[0] != ids[1]


def test_a_dataset_of_samples_has_the_recipe_of_the_seed_data_and_is_built_once(
    tmp_path: Any,
) -> None:
    artifacts = str(tmp_path)
    key = publish_dataset(artifacts, [letter_trace(0)], recipe="answer_only_v1", instruction="Hi")
    like = load_manifest(artifacts, key)
    pool = read_pool([sample(n) for n in range(6)], "x")
    request = dataset_request("r1-selected", pool.samples, like, 3)
    found = publish_samples(request, pool.samples, artifacts)
    assert publish_samples(request, pool.samples, artifacts) == found
    manifest = load_manifest(artifacts, found)
    assert (manifest.recipe, manifest.instruction, manifest.seed) == ("answer_only_v1", "Hi", 3)
    rows = [row for _, row in iter_rows(manifest, artifacts)]
    assert [row.id for row in rows] == [each.id for each in pool.samples]
    assert {row.created_at for row in rows} == {CREATED_AT}
    others = dataset_request("r1-selected", pool.samples[:-1], like, 3)
    assert others.dataset_key != request.dataset_key
