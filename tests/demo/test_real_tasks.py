from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tuneloop.demo.real_tasks import (
    TASKS,
    generate,
    is_held_out,
    task_eval_items,
    task_traces,
)
from tuneloop.errors import UsageError
from tuneloop.evaluation.sets.schema import dump_eval_set, parse_eval_set
from tuneloop.traces.schema import parse_trace

PER_TASK = 110


@pytest.mark.golden
def test_the_eval_set_is_the_generators(golden: Callable[[str, str], None]) -> None:
    golden("../../eval/real_v1.jsonl", dump_eval_set(task_eval_items(PER_TASK, 0)).decode())


def test_the_eval_set_is_valid_balanced_and_not_to_be_guessed() -> None:
    items = parse_eval_set(dump_eval_set(task_eval_items(PER_TASK, 0)), "real")
    counts = Counter(item.category for item in items)
    assert set(counts) == set(TASKS)
    assert set(counts.values()) == {PER_TASK}
    for category in counts:
        answers = Counter(i.expected_answer for i in items if i.category == category)
        assert max(answers.values()) <= PER_TASK / 4, category


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("task", TASKS)
def test_no_evaluated_calculation_is_trained_on(task: str, seed: int) -> None:
    evaluated = {problem.operands for problem in generate(task, PER_TASK, 0, "eval")}
    trained = {problem.operands for problem in generate(task, 160, seed, "train")}
    assert len(evaluated) == PER_TASK
    assert len(trained) == 160
    assert not evaluated & trained
    assert all(is_held_out(task, operands) for operands in evaluated)


def test_traces_are_valid_and_a_function_of_the_seed() -> None:
    traces = task_traces(50, 7)
    assert traces == task_traces(50, 7)
    assert traces != task_traces(50, 8)
    for number, trace in enumerate(traces):
        assert parse_trace(trace, "tasks", number).meta == trace["meta"]
    assert Counter(t["meta"]["category"] for t in traces) == dict.fromkeys(TASKS, 50)


def solve(prompt: str) -> str:
    """Compute the answer again from the prompt alone."""
    numbers = [int(text) for text in re.findall(r"\d+", prompt)]
    if prompt.startswith("How much"):
        count, price, one, other = numbers
        return str(count * price + one * other)
    if prompt.startswith("How many minutes"):
        return str(numbers[0] * 60 + numbers[1])
    words = prompt.partition(": ")[2].partition("?")[0].split(", ")
    return words[-numbers[0]]


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_right_and_ends_the_last_step(task: str) -> None:
    for problem in generate(task, 150, 3, "train"):
        assert problem.answer == solve(problem.prompt), problem
        assert re.search(rf"\b{problem.answer}( \d)?$", problem.steps[-1]), problem
        for step in problem.steps:
            for left, sign, right, result in re.findall(r"(\d+)([-+*])(\d+)=(\d+)", step):
                a, b = int(left), int(right)
                assert int(result) == {"+": a + b, "-": a - b, "*": a * b}[sign], problem


def test_unknown_tasks_and_too_many_problems_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown task; choose one of coins, minutes"):
        generate("juggle", 1, 0, "train")
    with pytest.raises(UsageError, match=r"found \d+ eval problems, expected 200; request fewer"):
        generate("minutes", 200, 0, "eval")
