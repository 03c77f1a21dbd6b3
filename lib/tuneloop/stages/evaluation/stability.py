"""The noise floor of an evaluation: how many answers and scores change without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuneloop.artifacts.results import NoiseFloor
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.noise import repeats
from tuneloop.stages.eval_passes import Pass
from tuneloop.stages.evaluation.samples import Answered, Judge


def noise_floor(
    passes: Sequence[Pass],
    answered: Sequence[Answered],
    found: Mapping[str, Mapping[int, Generation]],
    seed: int,
    judge: Judge,
) -> NoiseFloor | None:
    """Compare the answers to questions that were asked again with the first answers.

    Only answers with another text are scored again: equal texts have equal scores.

    Args:
        passes: the passes of the evaluation.
        answered: the scored answers of each pass.
        found: name of the pass -> number of the answer -> the answer.
        seed: seed of the run.
        judge: scores answers.

    Returns:
        None if no pass asked again.
    """
    for first, own in zip(passes, answered, strict=True):
        again = list(repeats(first, found, seed))
        if not again:
            continue
        changed = [each for each in again if each.first.text != each.second.text]
        flipped = 0
        for each in changed:
            before = own.answers[each.question * first.samples]
            after, _ = judge(own.asked.set, before.item, each.second)
            flipped += after.value != before.judgement.value
        return NoiseFloor(
            answers=len(again), changed=len(changed), flipped=flipped, set=own.asked.set.name
        )
    return None
