"""`make check-tasks`: tasks of reasoning-gym, whose packages are not in the tests' environment.

sympy is among them, and the tests prove that training runs without it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tuneloop.errors import DataError, UsageError
from tuneloop.evaluation.sets.schema import parse_eval_set
from tuneloop.traces.gym import draw_problems, problem_to_trace
from tuneloop.traces.schema import parse_trace

# reasoning-gym and the packages that it imports warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_problems_are_different_and_a_function_of_the_seed() -> None:
    problems = list(draw_problems("chain_sum", 30, 5))
    assert problems == list(draw_problems("chain_sum", 30, 5))
    assert problems != list(draw_problems("chain_sum", 30, 6))
    assert len({problem.question for problem in problems}) == 30
    for number, problem in enumerate(problems):
        trace = parse_trace(problem_to_trace(problem), "gym", number)
        assert trace.meta == {"source": "reasoning-gym", "category": "chain_sum"}
        expression = problem.question.split(":")[1].split("=")[0]
        assert eval(expression) == int(problem.answer)


def test_an_unknown_task_and_too_few_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="task juggle: unknown, expected a task of reasoning-gym"):
        list(draw_problems("juggle", 1, 0))
    with pytest.raises(DataError, match=r"coin_flip: found \d+ different questions, expected 2000"):
        list(draw_problems("coin_flip", 2000, 0))


def test_the_verbs_print_traces_and_an_eval_set() -> None:
    traces = tuneloop("traces", "generate", "gcd", "--count", "5")
    assert [json.loads(line)["meta"]["category"] for line in traces.splitlines()] == ["gcd"] * 5
    items = tuneloop("eval-sets", "generate", "gcd", "--count", "5", "--seed", "3")
    assert [item.category for item in parse_eval_set(items.encode(), "gcd")] == ["gcd"] * 5


def tuneloop(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuneloop.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
