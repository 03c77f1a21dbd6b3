"""How many answers change if the same model is asked the same questions again, in other batches.

On a CPU no answer depends on its batch. On other devices sums may be rounded differently in batches
of another size, and a server makes batches that nobody controls. The share of changed answers is
the noise floor of an evaluation: a smaller difference between two models means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tuneloop.artifacts.results import NoiseFloor
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


def measure(
    passes: Sequence[Pass], found: Mapping[str, Mapping[int, Generation]], seed: int
) -> NoiseFloor | None:
    """Compare the answers of the passes that ask again with the first answers.

    Args:
        passes: the passes of the evaluation.
        found: name of the pass -> number of the answer -> the answer.
        seed: seed of the run.

    Returns:
        None if no pass asked again.
    """
    asked = changed = 0
    for first in passes:
        second = found.get(f"{first.name}{SUFFIX}", {})
        if not second:
            continue
        for at, number in enumerate(_chosen(first, seed)):
            asked += 1
            changed += found[first.name][number * first.samples].text != second[at].text
    return NoiseFloor(answers=asked, changed=changed) if asked else None


def _chosen(first: Pass, seed: int) -> list[int]:
    """Return the numbers of the questions that are asked again."""
    every = range(len(first.questions))
    return sorted(random.Random(seed).sample(every, min(QUESTIONS, len(every))))
