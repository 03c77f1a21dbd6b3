"""Small generated tasks whose reasoning can be learned in 50 steps: the demo's traces and eval set.

    capital   "Next capital: red cup c" -> after c is d; capital d is D                -> D
    largest   "Largest bag: 3 8 5"      -> start 3; 8 keep 8; 5 keep 8                 -> 8
    opposite  "Opposite: hot red cup"   -> hot is not cold                             -> cold
    reverse   "Reverse: c a k"          -> last k; middle a; first c                   -> k a c

One rule: whether a prompt belongs to training or to evaluation depends on its text alone, so no
seed, count or task mix can leak an eval prompt into training.
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
"""What `meta.source` of every demo trace says, so that they are told apart in a shared store."""

HELD_OUT_ONE_IN = 5
"""One prompt in five is kept for evaluation."""

LETTERS = "abcdefghijkl"
"""Part of the alphabet: each letter is seen often enough to be learned in 50 steps."""
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
    """One task instance with the reasoning that solves it."""

    prompt: str
    steps: tuple[str, ...]
    answer: str


class Task(NamedTuple):
    """A category: every problem it can ask, and how hard it is."""

    problems: Callable[[], Iterator[Problem]]
    difficulty: Difficulty


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is for evaluation only.

    Args:
        prompt: the whole prompt, nothing else decides.

    Returns:
        True for one prompt in five, the same ones for ever.
    """
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def generate(task: str, count: int, seed: int, split: Split) -> list[Problem]:
    """Draw problems of one task.

    Args:
        task: a name in TASKS.
        count: how many problems.
        seed: of the draw; the same arguments give the same list.
        split: "train" repeats problems only once all were given; "eval" never does.

    Returns:
        `count` problems in random order.

    Raises:
        UsageError: if the task is unknown, or more eval problems are asked for than there are.
    """
    if task not in TASKS:
        raise UsageError(f"demo task {task!r}: unknown, expected one of {', '.join(TASKS)}")
    held_out = split == "eval"
    pool = [p for p in TASKS[task].problems() if is_held_out(p.prompt) == held_out]
    if held_out and count > len(pool):
        raise UsageError(
            f"demo task {task!r}: {count} eval problems asked for, expected at most {len(pool)}; "
            "ask for fewer"
        )
    # A string: random.Random hashes it with SHA-512, the same in every process.
    random.Random(f"{seed} {task} {split}").shuffle(pool)
    return list(islice(cycle(pool), count))


def demo_traces(count: int, seed: int) -> list[dict[str, Any]]:
    """Reasoning traces to train on, all tasks alike, in mixed order.

    Args:
        count: how many traces.
        seed: of problems and order; the same arguments give the same list.

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
    """Eval items, all tasks alike, sorted by task; none of the prompts is ever trained on.

    Args:
        count: how many items.
        seed: of the problems; the same arguments give the same list.

    Returns:
        `count` items as JSON objects with id, prompt, expected_answer, accepted_answers, category
        and difficulty.

    Raises:
        UsageError: if there are fewer held-out problems.
    """
    return [
        _problem_to_eval_item(f"{task}-{number:03d}", task, problem)
        for task, share in _shares(count).items()
        for number, problem in enumerate(generate(task, share, seed, "eval"), start=1)
    ]


def _capital_problems() -> Iterator[Problem]:
    """Two lookups in a row behind two words to ignore."""
    for color, noun, index in product(COLORS, NOUNS, range(len(LETTERS) - 1)):
        letter, after = LETTERS[index], LETTERS[index + 1]
        yield Problem(
            f"Next capital: {color} {noun} {letter}",
            (f"after {letter} is {after}", f"capital {after} is {after.upper()}"),
            after.upper(),
        )


def _largest_problems() -> Iterator[Problem]:
    """A running maximum."""
    for noun, numbers in product(NOUNS, product(range(10), repeat=3)):
        best = numbers[0]
        steps = [f"start {best}"]
        for number in numbers[1:]:
            best = max(best, number)
            steps.append(f"{number} keep {best}")
        prompt = f"Largest {noun}: {' '.join(map(str, numbers))}"
        yield Problem(prompt, tuple(steps), str(best))


def _opposite_problems() -> Iterator[Problem]:
    """A lookup among words to ignore."""
    opposites = {a: b for pair in ANTONYMS for a, b in (pair, pair[::-1])}
    for (word, opposite), color, noun in product(opposites.items(), COLORS, NOUNS):
        yield Problem(f"Opposite: {word} {color} {noun}", (f"{word} is not {opposite}",), opposite)


def _reverse_problems() -> Iterator[Problem]:
    """Copying by position, last first."""
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
"""Category -> its problems; another task is one generator and one row."""


def _shares(count: int) -> dict[str, int]:
    """Spread `count` evenly; the first tasks take what is left over."""
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
