from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tuneloop.demo.tasks import (
    TASKS,
    demo_eval_items,
    demo_traces,
    generate,
    is_held_out,
)
from tuneloop.errors import UsageError
from tuneloop.evaluation.sets.schema import parse_eval_set
from tuneloop.traces.schema import parse_trace

EVAL_ITEMS = 160
EVAL_SEED = 0


@pytest.mark.golden
def test_the_demo_eval_set_is_the_generators(golden: Callable[[str, str], None]) -> None:
    items = demo_eval_items(EVAL_ITEMS, EVAL_SEED)
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    golden("../../eval/demo_v1.jsonl", text)


def test_the_demo_eval_set_is_valid_and_balanced() -> None:
    lines = [json.dumps(item).encode() + b"\n" for item in demo_eval_items(EVAL_ITEMS, EVAL_SEED)]
    items = parse_eval_set(b"".join(lines), "demo")
    counts = Counter(item.category for item in items)
    assert set(counts) == set(TASKS)
    assert len(TASKS) >= 3
    assert set(counts.values()) == {EVAL_ITEMS // len(TASKS)}
    for category in counts:
        answers = Counter(i.expected_answer for i in items if i.category == category)
        # Constant guesses are far from the accuracy that the demo claims.
        assert max(answers.values()) <= counts[category] / 3, category


@pytest.mark.parametrize("seed", [0, 1, 2, 12345])
def test_no_eval_prompt_is_ever_trained_on(seed: int) -> None:
    evaluated = {item["prompt"] for item in demo_eval_items(EVAL_ITEMS, EVAL_SEED)}
    trained = {trace["prompt"] for trace in demo_traces(4000, seed)}
    assert not evaluated & trained
    assert all(is_held_out(prompt) for prompt in evaluated)
    assert not any(is_held_out(prompt) for prompt in trained)


def test_traces_are_valid_and_a_function_of_the_seed() -> None:
    traces = demo_traces(400, 7)
    assert traces == demo_traces(400, 7)
    assert traces != demo_traces(400, 8)
    for number, trace in enumerate(traces):
        assert parse_trace(trace, "demo", number).meta == trace["meta"]
    assert Counter(t["meta"]["category"] for t in traces) == dict.fromkeys(TASKS, 100)


def solve(prompt: str) -> str:
    """Compute the answer again from the prompt alone."""
    task, _, rest = prompt.partition(": ")
    words = rest.split()
    match task.split()[0]:
        case "Next":
            return chr(ord(words[-1]) + 1).upper()
        case "Largest":
            return str(max(map(int, words)))
        case "Reverse":
            return " ".join(reversed(words))
        case "Opposite":
            pairs = (
                "hot-cold big-small old-new wet-dry fast-slow hard-soft thin-thick full-empty "
                "long-short dark-light"
            )
            for pair in pairs.split():
                a, b = pair.split("-")
                if words[0] in (a, b):
                    return b if words[0] == a else a
    raise AssertionError(prompt)


def test_every_answer_is_right_and_follows_from_the_last_step() -> None:
    for trace in demo_traces(2000, 3):
        answer = solve(trace["prompt"])
        assert trace["final_answer"] == answer, trace
        assert [step["i"] for step in trace["steps"]] == list(range(len(trace["steps"])))
        last = answer.split()[-1]
        assert trace["steps"][-1]["content"].endswith(last), trace


def test_unknown_tasks_and_too_many_items_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown task; choose one of"):
        generate("juggle", 1, 0, "train")
    with pytest.raises(UsageError, match="expected at most"):
        demo_eval_items(100_000, 0)
    # Problems repeat once all have been used.
    assert len(generate("reverse", 5000, 0, "train")) == 5000
