"""How many answers change if the same model is asked the same questions again, in other batches.

On a CPU no answer depends on its batch. On other devices sums may be rounded differently in batches
of another size, and a server makes batches that nobody controls. The share of changed answers is
the noise floor of an evaluation: a smaller difference between two models means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.eval_passes import Pass

QUESTIONS = 64
"""Questions that are asked again at most."""
SUFFIX = "_again"
"""Ending of the name of a pass that asks questions again."""


def again(first: Pass, batch_size: int, seed: int) -> Pass:
    """Return a pass that asks some questions of another pass again, in batches of another size.

    Args:
        first: the pass.
        batch_size: batch size of the evaluation.
        seed: seed of the run, which chooses the questions.
    """
    chosen = _chosen(first, seed)
    return replace(
        first,
        name=f"{first.name}{SUFFIX}",
        questions=tuple(first.questions[number] for number in chosen),
        samples=1,
        batch_size=other_batch_size(batch_size),
    )


def other_batch_size(batch_size: int) -> int:
    """Return a batch size that differs from another one."""
    return max(1, batch_size // 3) if batch_size > 1 else 2


@dataclass(frozen=True)
class Repeat:
    """A question that was asked again."""

    question: int
    """Number of the question in its pass."""
    first: Generation
    """Its first answer; the first of several samples."""
    second: Generation


def repeats(
    first: Pass, found: Mapping[str, Mapping[int, Generation]], seed: int
) -> Iterator[Repeat]:
    """Yield the questions of a pass that were asked again; none if no pass asks again.

    Args:
        first: the pass.
        found: name of the pass -> number of the answer -> the answer.
        seed: seed of the run.
    """
    second = found.get(f"{first.name}{SUFFIX}")
    if second:
        for at, number in enumerate(_chosen(first, seed)):
            yield Repeat(number, found[first.name][number * first.samples], second[at])


def _chosen(first: Pass, seed: int) -> list[int]:
    """Return the numbers of the questions that are asked again."""
    every = range(len(first.questions))
    return sorted(random.Random(seed).sample(every, min(QUESTIONS, len(every))))
