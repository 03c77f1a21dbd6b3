"""Problems of reasoning-gym: about a hundred generators of tasks whose answers are computed.

reasoning-gym states the answer of a problem and no reasoning, so a trace of it has one step that
says where the answer comes from. Use such traces with the recipe `answer_only_v1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from tuneloop.errors import DataError, UsageError
from tuneloop.traces.schema import build_trace

SOURCE = "reasoning-gym"
"""`meta.source` of the traces, and the name of the package."""
STEP = "Computed by reasoning-gym."
ONE_ANSWER = frozenset({"arc_agi", "rearc"})
"""Tasks with a scorer that compares with one grid, but as tuples, which JSON does not keep."""


class GymProblem(NamedTuple):
    """One problem of a task."""

    task: str
    question: str
    answer: str
    metadata: dict[str, Any]
    """The task's own data about the problem, which its scorer may need."""
    seed: int = 0
    """Seed of the problem; problem N of a data set with the seed S has the seed S + N."""


def package_with(task: str) -> Any:
    """Return the module `reasoning_gym`, which has the task.

    Raises:
        UsageError: it is not installed, or has no such task.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as e:
        raise UsageError(
            f"task {task}: the package reasoning-gym is not installed, expected it; install"
            " requirements/tasks.txt"
        ) from e
    if task not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise UsageError(f"task {task}: unknown, expected a task of reasoning-gym: {known}")
    return reasoning_gym


def draw_problems(task: str, count: int, seed: int) -> Iterator[GymProblem]:
    """Draw problems of one task, each with its own question.

    Args:
        task: a task name of reasoning-gym, such as `chain_sum`.
        count: number of problems.
        seed: seed of the draw. Problems of two seeds may overlap; the export stage drops traces
            that overlap the eval set.

    Raises:
        UsageError: reasoning-gym is not installed, or has no such task.
        DataError: the task has fewer than `count` different questions, or one without an answer.
    """
    # Small tasks repeat questions, so draw more than are needed.
    found = 0
    for problem in islice(problems_of_seeds(task, seed, 4 * count), count):
        found += 1
        yield problem
    if found < count:
        raise DataError(
            f"task {task}: found {found} different questions, expected {count}; request fewer"
        )


def problems_of_seeds(task: str, first_seed: int, seeds: int) -> Iterator[GymProblem]:
    """Yield the problem of each seed of a range, without questions that are already there.

    Args:
        task: a task name of reasoning-gym.
        first_seed: first seed of the range.
        seeds: number of seeds.

    Raises:
        UsageError: reasoning-gym is not installed, or has no such task.
        DataError: a question has no answer.
    """
    drawn = package_with(task).create_dataset(task, size=seeds, seed=first_seed)
    seen: set[str] = set()
    for number, row in enumerate(drawn):
        question, answer = str(row["question"]).strip(), row["answer"]
        if answer is None or not str(answer).strip():
            raise DataError(
                f"task {task}: a question has no single answer, expected one; choose another task"
            )
        if question not in seen:
            seen.add(question)
            yield GymProblem(task, question, str(answer), row["metadata"], first_seed + number)


def has_own_scorer(task: str) -> bool:
    """Whether a task scores answers by rules of its own, and not by comparing them with one answer.

    Args:
        task: a task name that `draw_problems` has accepted.
    """
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    own = DATASETS[task][0].score_answer is not ProceduralDataset.score_answer
    return own and task not in ONE_ANSWER


def problem_to_trace(problem: GymProblem) -> dict[str, Any]:
    """Build the trace of a problem: question, one step that names the source, and the answer."""
    meta = {"source": SOURCE, "category": problem.task}
    return build_trace(problem.question, (STEP,), problem.answer, meta=meta, step_type="source")
