"""`tuneloop datasets build`: the preview, the rules, and errors of options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import Invoke
from tuneloop.datasets.selection.expressions import parse_numbers, parse_where
from tuneloop.store.db import select
from tuneloop.traces.client import TraceClient
from tuneloop.traces.schema import build_trace


@pytest.fixture
def traces(store: str) -> str:
    """URL of a store with 6 traces of two prompts and 2 of an evaluation."""
    made = [
        build_trace(f"prompt {n % 2} é", ["think"], str(n), reward=n / 4, meta={"source": "web"})
        for n in range(6)
    ]
    made += [build_trace("q", ["a"], "b", meta={"source": "evaluation"})] * 2
    with TraceClient(store) as client:
        client.post_batch(made, "k")
    return store


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_build_shows_what_each_rule_removes(tuneloop: Invoke, traces: str) -> None:
    build = ("datasets", "build", "d", "v1", "--store", traces)
    rules = ("--where", "reward>=0.5", "--best-of", "1", "--cap", "source=1")
    _, dry, _ = tuneloop(*build, *rules, "--dry-run")
    assert words(dry) == [
        "rule removed left",
        "traces in the store 8",
        "no answers of evaluated models 2 6",
        "where reward 2 4",
        "best of each prompt 2 2 2 prompts",
        "cap source 1 1 1 values",
        "limit 0 1",
        "d-v1: 1 traces would be selected",
    ]
    _, built, _ = tuneloop(*build, *rules)
    assert words(built) == [*words(dry)[:-1], "d-v1: 1 traces"]
    reply = json.loads(tuneloop(*build, *rules, "--json")[1])
    assert (reply["dataset_key"], reply["account"]["considered"]) == ("d-v1", 8)
    published = tuneloop(*build, *rules, "--dry-run")[1]
    assert published.endswith("would be selected, but this dataset is published already\n")


def test_the_store_selects_once(
    tuneloop: Invoke, traces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seeds = select._choose_now, list[int]()

    def choose(connection: Any, asked: Any, seed: int, members: Any) -> Any:
        seeds.append(seed)
        return real(connection, asked, seed, members)

    monkeypatch.setattr(select, "_choose_now", choose)
    build = ("datasets", "build", "d", "v1", "--store", traces, "--strategy", "random")
    assert tuneloop(*build, "--limit", "2")[0] == 0
    assert len(seeds) == 1


def test_a_build_of_chat_names_its_recipe(tuneloop: Invoke, store: str) -> None:
    chats = [build_trace(f"Hi {n}?", ["Let me see.\n\nHm."] * (n % 2), "Hello!") for n in range(4)]
    with TraceClient(store) as client:
        client.post_batch([*chats, build_trace("1+1?", ["add"], "2")], "chats")
    build = ("datasets", "build", "chats", "v1", "--store", store)
    _, out, err = tuneloop(*build, "--dry-run")
    assert "4 of the first 5 traces are chat" in err and "--recipe chat_v1" in err
    assert "chat_v1" not in out
    hint = json.loads(tuneloop(*build, "--dry-run", "--json")[1])["recipe_hint"]
    assert "the recipe chat_v1 writes reasoning" in hint
    assert "chat" not in tuneloop(*build, "--recipe", "chat_v1")[2]


def test_answers_of_evaluations_are_selected_when_asked(tuneloop: Invoke, traces: str) -> None:
    build = ("datasets", "build", "d", "v1", "--store", traces, "--json")
    assert json.loads(tuneloop(*build, "--include-evaluation")[1])["trace_count"] == 8


def test_a_dataset_of_a_dataset(tuneloop: Invoke, traces: str) -> None:
    tuneloop("datasets", "build", "a", "1", "--store", traces, "--limit", "3")
    build = ("datasets", "build", "b", "1", "--store", traces, "--dry-run")
    shown = words(tuneloop(*build, "--from", "a-1")[1])
    assert "traces of the named datasets 5 3 0 deleted from the store" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "reward"], "comparison 'reward': expected FIELD>=VALUE"),
        (["--where", "rewards>=1"], "found the field 'rewards', expected reward"),
        (["--where", "reward==1"], "value '=1': begins with an operator"),
        (["--where", "reward>=x"], "reward: found 'x', expected a number"),
        (["--where", "reward=1", "--where", "reward=2"], "found = twice for reward"),
        (["--cap", "source"], "'source': expected NAME=NUMBER"),
        (["--cap", "source=1.5"], "caps.source"),
        (["--from", "a=0"], "datasets.a"),
        (["--best-of", "1", "--best-by", "source"], "expected a field of numbers"),
        (["--filter", "{"], "not JSON"),
        (["--filter", "[" * 9999], "nested too deeply"),
    ],
)
def test_a_wrong_option_is_a_usage_error(
    tuneloop: Invoke, options: list[str], message: str
) -> None:
    code, _, error = tuneloop(
        "datasets", "build", "d", "v1", *options, "--store", "http://127.0.0.1:9"
    )
    assert code == 2
    assert message in error


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["reward>=0.5", "reward <= 1"], {"reward": {"min": 0.5, "max": 1}}),
        (["source=web"], {"source": {"any_of": ["web"]}}),
        (['source=["a","b=c"]'], {"source": {"any_of": ["a", "b=c"]}}),
        (["source=a=b"], {"source": {"any_of": ["a=b"]}}),
        (["labels.bad!=true", "labels.bad!=x"], {"labels.bad": {"none_of": [True, "x"]}}),
        (["/a~1b/é=null"], {"/a~1b/é": {"any_of": [None]}}),
        (["created_at>=2026-11-01"], {"created_at": {"min": "2026-11-01"}}),
        (["source="], {"source": {"any_of": [""]}}),
    ],
)
def test_comparisons_as_texts(texts: list[str], found: Any) -> None:
    assert parse_where(texts) == found


def test_numbers_as_texts() -> None:
    assert parse_numbers(["a=1", "b-v1", "c=d=0.5"], 1.0) == {"a": 1, "b-v1": 1, "c=d": 0.5}
    with pytest.raises(ValueError, match="another name each time"):
        parse_numbers(["a=1", "a=2"])
