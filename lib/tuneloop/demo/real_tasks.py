"""Generated tasks that teach a real model to reason in steps: the traces of `make loop-real`.

    coins    "How much are 4 pens at 7 cents and 1 cup at 30 cents?"
             -> 4*7=28; 28+30=58                                       -> 58
    minutes  "How many minutes are 3 hours and 25 minutes?"
             -> 3*60=180; 180+25=205                                   -> 205
    words    "Which word is number 3 from the end: lamp, river, stone, bird, tree?"
             -> up to 3: tree 1 bird 2 stone 3                         -> stone

Every answer is computed from operands. Whether a problem belongs to training or to evaluation
depends only on its task and operands, not on its wording. No evaluated calculation is therefore
trained on, not even with other nouns.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from tuneloop.errors import UsageError
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.traces.schema import build_trace

SOURCE = "tuneloop-real-tasks"
"""`meta.source` of every trace of these tasks."""

HELD_OUT_ONE_IN = 4
"""One set of operands in this many is kept for evaluation."""

DRAWS_PER_PROBLEM = 200
"""Draws, for each problem that is asked for, before a task counts as exhausted."""

FORM = 'Show steps, then "Answer:".'
"""States how to answer; it ends every prompt. It is short, because the export drops a trace that
shares 13 words in a row with an eval prompt."""

THINGS = ("pen", "cup", "key", "map", "hat", "bag", "ball", "book", "card", "doll", "fork", "lamp")
WORDS = tuple(
    "apple bird boat bread bridge chair cloud coat desk door farm fish flower forest garden glass "
    "hill horse house island lake leaf moon mouse park plate river road rock rope sand ship snow "
    "spoon star stone table tower train tree water window".split()
)
Split = Literal["train", "eval"]


class Problem(NamedTuple):
    """One task instance with the reasoning that solves it, and its answer."""

    operands: tuple[object, ...]
    """What the answer is computed from; decides whether the problem is held out."""
    prompt: str
    steps: tuple[str, ...]
    answer: str


def is_held_out(task: str, operands: tuple[object, ...]) -> bool:
    """Return whether a calculation is for evaluation only.

    Args:
        task: name of the task.
        operands: the numbers and words that the answer depends on, in one fixed order.

    Returns:
        True for one set of operands in four.
    """
    key = f"{task} {' '.join(map(str, operands))}"
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def generate(task: str, count: int, seed: int, split: Split) -> list[Problem]:
    """Draw problems of one task, each with operands of its own.

    Args:
        task: a name in TASKS.
        count: number of problems.
        seed: seed of the draw; the same arguments give the same list.
        split: "train" or "eval"; no operands occur in both.

    Returns:
        `count` problems in random order.

    Raises:
        UsageError: the task is unknown, or it has fewer than `count` problems in this split.
    """
    if task not in TASKS:
        raise UsageError(f"task {task!r}: unknown task; choose one of {', '.join(TASKS)}")
    # random.Random hashes a string with SHA-512, so the draw is the same in every process.
    rng = random.Random(f"{seed} {task} {split}")
    found: dict[tuple[object, ...], Problem] = {}
    for _ in range(DRAWS_PER_PROBLEM * count):
        problem = TASKS[task](rng)
        if is_held_out(task, problem.operands) == (split == "eval"):
            found.setdefault(problem.operands, problem)
        if len(found) == count:
            return list(found.values())
    raise UsageError(
        f"task {task!r}: found {len(found)} {split} problems, expected {count}; request fewer"
    )


def task_traces(per_task: int, seed: int) -> list[dict[str, Any]]:
    """Generate reasoning traces for training, equally many of each task, in random order.

    Args:
        per_task: traces of each task.
        seed: seed of problems and order; the same arguments give the same list.

    Returns:
        Traces as JSON objects in ReasoningTrace form.
    """
    traces = [
        build_trace(
            problem.prompt, problem.steps, problem.answer, meta={"source": SOURCE, "category": task}
        )
        for task in TASKS
        for problem in generate(task, per_task, seed, "train")
    ]
    random.Random(f"{seed} order").shuffle(traces)
    return traces


def task_eval_items(per_task: int, seed: int) -> list[EvalItem]:
    """Generate held-out eval items, equally many of each task, sorted by task.

    `eval/real_v1.jsonl` holds 110 of each task, with seed 0.

    Args:
        per_task: items of each task.
        seed: seed of the problems; the same arguments give the same list.
    """
    return [
        EvalItem(
            id=f"{task}-{number:03d}",
            prompt=problem.prompt,
            expected_answer=problem.answer,
            category=task,
            difficulty="medium",
        )
        for task in TASKS
        for number, problem in enumerate(generate(task, per_task, seed, "eval"), start=1)
    ]


def _coins(rng: random.Random) -> Problem:
    """Draw a problem with a small multiplication and an addition."""
    count, price, other = rng.randint(2, 6), rng.randint(2, 12), 10 * rng.randint(1, 9)
    many, one = rng.sample(THINGS, 2)
    product = count * price
    steps = (f"{count}*{price}={product}", f"{product}+{other}={product + other}")
    prompt = f"How much are {count} {many}s at {price} cents and 1 {one} at {other} cents? {FORM}"
    return Problem((count, price, other), prompt, steps, str(product + other))


def _minutes(rng: random.Random) -> Problem:
    """Draw a problem with a multiplication and an addition."""
    hours, minutes = rng.randint(2, 12), rng.randint(1, 59)
    steps = (f"{hours}*60={hours * 60}", f"{hours * 60}+{minutes}={hours * 60 + minutes}")
    unit = "minute" if minutes == 1 else "minutes"
    prompt = f"How many minutes are {hours} hours and {minutes} {unit}? {FORM}"
    return Problem((hours, minutes), prompt, steps, str(hours * 60 + minutes))


def _words(rng: random.Random) -> Problem:
    """Draw a problem that needs copying by position, last first."""
    words = rng.sample(WORDS, 5)
    position = rng.randint(2, 4)
    backwards = words[::-1][:position]
    counted = " ".join(f"{word} {number}" for number, word in enumerate(backwards, start=1))
    prompt = f"Which word is number {position} from the end: {', '.join(words)}? {FORM}"
    steps = (f"up to {position}: {counted}",)
    return Problem((position, *words), prompt, steps, backwards[-1])


TASKS: dict[str, Callable[[random.Random], Problem]] = {
    "coins": _coins,
    "minutes": _minutes,
    "words": _words,
}
"""Task name -> function that draws one problem. To add a task, write a function and add a row."""
