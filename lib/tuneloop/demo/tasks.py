"""Generated tasks for the demo's traces and eval set; a tiny model learns them in 50 steps.

    capital   "Next capital: red cup c" -> after c is d; capital d is D                -> D
    largest   "Largest bag: 3 8 5"      -> start 3; 8 keep 8; 5 keep 8                 -> 8
    opposite  "Opposite: hot red cup"   -> hot is not cold                             -> cold
    reverse   "Reverse: c a k"          -> last k; middle a; first c                   -> k a c

Whether a prompt belongs to training or to evaluation depends only on its text. No choice of seed,
count or tasks can therefore put an eval prompt into the training set.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice, permutations, product
from typing import Any, Literal, NamedTuple

from tuneloop.errors import UsageError
from tuneloop.traces.schema import build_trace

SOURCE = "tuneloop-demo"
"""`meta.source` of every demo trace, which distinguishes them from other traces in the store."""

HELD_OUT_ONE_IN = 5
"""One prompt in this many is kept for evaluation."""

LETTERS = "abcdefghijkl"
"""Part of the alphabet, so that each letter occurs often enough to be learned in 50 steps."""
COLORS = ("red", "blue", "green", "black", "white", "pink", "gray", "brown", "gold", "tan")
NOUNS = ("cup", "hat", "pen", "box", "key", "bag", "toy", "car", "map", "bed", "jar", "fan")
ANTONYMS = (
    ("hot", "cold"),
    ("big", "small"),
    ("old", "new"),
    ("wet", "dry"),
    ("fast", "slow"),
    ("hard", "soft"),
    ("thin", "thick"),
    ("full", "empty"),
    ("long", "short"),
    ("dark", "light"),
)

Split = Literal["train", "eval"]
Difficulty = Literal["easy", "medium"]


class Problem(NamedTuple):
    """One task instance with the reasoning that solves it, and its answer."""

    prompt: str
    steps: tuple[str, ...]
    answer: str


class Task(NamedTuple):
    """A category of problems, with a generator of all its problems and their difficulty."""

    problems: Callable[[], Iterator[Problem]]
    difficulty: Difficulty


def is_held_out(prompt: str) -> bool:
    """Return whether a prompt is for evaluation only.

    Args:
        prompt: the whole prompt; the result depends on nothing else.

    Returns:
        True for one prompt in five.
    """
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def generate(task: str, count: int, seed: int, split: Split) -> list[Problem]:
    """Draw problems of one task.

    Args:
        task: a name in TASKS.
        count: number of problems.
        seed: seed of the draw; the same arguments give the same list.
        split: "train" repeats problems if `count` exceeds their number; "eval" never does.

    Returns:
        `count` problems in random order.

    Raises:
        UsageError: the task is unknown, or there are fewer than `count` eval problems.
    """
    if task not in TASKS:
        raise UsageError(f"demo task {task!r}: unknown task; choose one of {', '.join(TASKS)}")
    held_out = split == "eval"
    pool = [p for p in TASKS[task].problems() if is_held_out(p.prompt) == held_out]
    if held_out and count > len(pool):
        raise UsageError(
            f"demo task {task!r}: found a request for {count} eval problems, expected at most "
            f"{len(pool)}; request fewer"
        )
    # random.Random hashes a string with SHA-512, so the order is the same in every process.
    random.Random(f"{seed} {task} {split}").shuffle(pool)
    return list(islice(cycle(pool), count))


def demo_traces(count: int, seed: int) -> list[dict[str, Any]]:
    """Generate reasoning traces for training, evenly from all tasks, in random order.

    Args:
        count: number of traces.
        seed: seed of problems and order; the same arguments give the same list.

    Returns:
        `count` traces as JSON objects in ReasoningTrace form, each with one step or more.
    """
    traces = [
        _problem_to_trace(task, problem)
        for task, share in _shares(count).items()
        for problem in generate(task, share, seed, "train")
    ]
    random.Random(f"{seed} order").shuffle(traces)
    return traces


def demo_eval_items(count: int, seed: int) -> list[dict[str, Any]]:
    """Generate eval items evenly from all tasks, sorted by task; all prompts are held out.

    Args:
        count: number of items.
        seed: seed of the problems; the same arguments give the same list.

    Returns:
        `count` items as JSON objects with id, prompt, expected_answer, accepted_answers, category
        and difficulty.

    Raises:
        UsageError: there are fewer held-out problems.
    """
    return [
        _problem_to_eval_item(f"{task}-{number:03d}", task, problem)
        for task, share in _shares(count).items()
        for number, problem in enumerate(generate(task, share, seed, "eval"), start=1)
    ]


def _capital_problems() -> Iterator[Problem]:
    """Yield problems with two lookups in a row, after two words to ignore."""
    for color, noun, index in product(COLORS, NOUNS, range(len(LETTERS) - 1)):
        letter, after = LETTERS[index], LETTERS[index + 1]
        yield Problem(
            f"Next capital: {color} {noun} {letter}",
            (f"after {letter} is {after}", f"capital {after} is {after.upper()}"),
            after.upper(),
        )


def _largest_problems() -> Iterator[Problem]:
    """Yield problems that need a running maximum."""
    for noun, numbers in product(NOUNS, product(range(10), repeat=3)):
        best = numbers[0]
        steps = [f"start {best}"]
        for number in numbers[1:]:
            best = max(best, number)
            steps.append(f"{number} keep {best}")
        prompt = f"Largest {noun}: {' '.join(map(str, numbers))}"
        yield Problem(prompt, tuple(steps), str(best))


def _opposite_problems() -> Iterator[Problem]:
    """Yield problems with one lookup, before two words to ignore."""
    opposites = {a: b for pair in ANTONYMS for a, b in (pair, pair[::-1])}
    for (word, opposite), color, noun in product(opposites.items(), COLORS, NOUNS):
        yield Problem(f"Opposite: {word} {color} {noun}", (f"{word} is not {opposite}",), opposite)


def _reverse_problems() -> Iterator[Problem]:
    """Yield problems that need copying by position, last first."""
    for first, middle, last in permutations(LETTERS, 3):
        yield Problem(
            f"Reverse: {first} {middle} {last}",
            (f"last {last}", f"middle {middle}", f"first {first}"),
            f"{last} {middle} {first}",
        )


TASKS: dict[str, Task] = {
    "capital": Task(_capital_problems, "easy"),
    "largest": Task(_largest_problems, "medium"),
    "opposite": Task(_opposite_problems, "easy"),
    "reverse": Task(_reverse_problems, "medium"),
}
"""Tasks by category. To add a task, write a generator and add a row."""


def _shares(count: int) -> dict[str, int]:
    """Divide `count` evenly among the tasks; the first tasks get the remainder."""
    share, left = divmod(count, len(TASKS))
    return {task: share + (number < left) for number, task in enumerate(TASKS)}


def _problem_to_trace(task: str, problem: Problem) -> dict[str, Any]:
    return build_trace(
        problem.prompt, problem.steps, problem.answer, meta={"source": SOURCE, "category": task}
    )


def _problem_to_eval_item(item_id: str, task: str, problem: Problem) -> dict[str, Any]:
    return {
        "id": item_id,
        "prompt": problem.prompt,
        "expected_answer": problem.answer,
        "accepted_answers": [],
        "category": task,
        "difficulty": TASKS[task].difficulty,
        "case_sensitive": True,
    }
