"""Items of eval sets from generated problems of reasoning-gym."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from tuneloop.errors import DataError
from tuneloop.evaluation.scorers.rows.reasoning_gym import (
    METADATA,
    ReasoningGymOptions,
    judge_reasoning_gym,
)
from tuneloop.evaluation.sets.schema import EvalItem, GeneratedSet, SetHeader
from tuneloop.traces.gym import SOURCE, GymProblem, has_own_scorer

KIND = "reasoning_gym"
"""Name of the scorer that calls the task's own."""


def header_of(problems: Sequence[GymProblem]) -> SetHeader:
    """Build the header of a set: its name is the task, and its version tells the seeds.

    Args:
        problems: the problems of the set, all of one task, in the order of their seeds.
    """
    first, last = problems[0], problems[-1]
    return SetHeader(
        name=first.task,
        version=f"{version(SOURCE)}-{first.seed}-{last.seed}",
        generated=GeneratedSet(
            task=first.task, first_seed=first.seed, seeds=last.seed - first.seed + 1
        ),
    )


def problem_to_item(problem: GymProblem, identifier: str) -> EvalItem:
    """Build the item of a problem.

    If the task has rules of its own, such as any shortest path, the item names the scorer
    `reasoning_gym` and holds the task's data. Otherwise it names none, because the task compares
    answers with the expected one.

    Args:
        problem: the problem.
        identifier: id of the item, unique in its set.

    Raises:
        DataError: the task's own scorer needs data that JSON cannot hold.
    """
    keys: dict[str, Any] = {}
    if has_own_scorer(problem.task):
        keys = {
            "scorer": {"kind": KIND, "task": problem.task},
            "meta": {METADATA: _as_stored(problem)},
        }
    item = EvalItem(
        id=identifier,
        prompt=problem.question,
        expected_answer=problem.answer,
        category=problem.task,
        difficulty="medium",
        **keys,
    )
    if keys:
        options = ReasoningGymOptions(task=problem.task)
        judged = judge_reasoning_gym(problem.answer, item.to_item(""), options)
        if judged.state != "correct":
            raise _not_stored(problem, judged.explanation or judged.state)
    return item


def _as_stored(problem: GymProblem) -> Any:
    """Return the task's data as it is after it was written to a file and read again."""
    try:
        return json.loads(json.dumps(problem.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise _not_stored(problem, str(error)) from error


def _not_stored(problem: GymProblem, why: str) -> DataError:
    return DataError(
        f"task {problem.task}: its own scorer does not accept its answer once the problem is in a"
        f" file ({why}), expected full credit; choose another task"
    )
