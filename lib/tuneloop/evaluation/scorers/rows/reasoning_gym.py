"""Reasoning-gym: the score that a task of reasoning-gym gives an answer by its own rules.

Many tasks accept several answers, such as any shortest path, and give credit for a part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import UsageError
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.text.normalise import undecorated
from tuneloop.traces.gym import package_with

METADATA = "metadata"
"""Key in the item's `meta` with the task's own data about the problem."""


class ReasoningGymOptions(Options):
    """Options of `reasoning_gym`."""

    task: str | None = None
    """Task, such as `chain_sum`. Null: the item's category."""


def judge_reasoning_gym(answer: str, item: Item, options: ReasoningGymOptions) -> Judgement:
    """Call the task's scorer; an answer is correct if it gets full credit."""
    task = options.task or item.category
    entry = {
        "question": item.prompt,
        "answer": item.expected_answer,
        "metadata": item.meta.get(METADATA, {}),
    }
    found = undecorated(answer)
    try:
        value = float(_scorer(task)(found, entry))
    except UsageError:
        raise
    except Exception as error:  # tasks raise errors of every kind for answers of the wrong form
        return failed(answer, f"the scorer of {task} failed: {type(error).__name__}: {error}")
    if value >= 1:
        return correct(answer, item.expected_answer)
    judged = wrong(answer, f"the scorer of {task} gives {value:g}")
    return Judgement("wrong", min(max(value, 0.0), 1.0), answer, None, judged.explanation)


@cache
def _scorer(task: str) -> Callable[[str, dict[str, Any]], float]:
    """Return the scorer of a task.

    Raises:
        UsageError: the package is not installed, or it has no such task.
    """
    return package_with(task).get_score_answer_fn(task)  # type: ignore[no-any-return]
