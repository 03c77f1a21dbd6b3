"""The samples of an evaluation as arrays: one row for each item of a set, for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from msgspec import UNSET

from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Item, Judgement, Sample, State
from tuneloop.evaluation.statistics.anytime import RandomOrder
from tuneloop.evaluation.statistics.arrays import groups_of
from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.sequential import largest_group

MISSING = Judgement("error", 0.0, explanation="The answer is missing.")
"""Judgement of a sample that the file does not have."""


@dataclass(frozen=True)
class Answers:
    """All answers of one model to one set."""

    model: str
    samples: Sequence[Sequence[Sample]]
    """For each item its samples, in the order of their numbers; empty if they are missing."""
    expected: int
    """Samples that each item should have."""
    groups: Groups
    """(items,), number of the item's group; an independent item is a group of its own."""
    order: RandomOrder | None = None
    """Order in which the items were asked, if the answers may have decided their number."""
    parts: tuple[Answers, ...] = ()
    """Answers to each set, if these are the answers to several."""

    @cached_property
    def missing(self) -> int:
        """Number of expected samples that are not there."""
        return sum(max(0, self.expected - len(found)) for found in self.samples)

    def judgements(self, lenient: bool = False) -> list[list[Judgement]]:
        """Return the scores of each item; a missing sample is an error."""
        return [
            [one.lenient_score if lenient else one.score for one in found]
            + [MISSING] * (self.expected - len(found))
            for found in self.samples
        ]

    @cached_property
    def strict(self) -> list[list[Judgement]]:
        """The strict scores of each item."""
        return self.judgements()

    @cached_property
    def values(self) -> Floats:
        """Mean strict credit of each item, float64 (items,)."""
        return mean_values(self.strict)

    def flat(self) -> list[Sample]:
        """Return all samples that are there."""
        return [one for found in self.samples for one in found]


def mean_values(judgements: Sequence[Sequence[Judgement]]) -> Floats:
    """Return the mean credit of each item, float64 (items,)."""
    return np.array([sum(one.value for one in found) / len(found) for found in judgements])


def states(judgements: Sequence[Sequence[Judgement]]) -> Counter[State]:
    """Count the states of all answers."""
    return Counter(one.state for found in judgements for one in found)


@dataclass(frozen=True)
class SetAnswers:
    """One set with the answers of every model that was asked it."""

    items: Sequence[Item]
    """Items that were asked."""
    models: Mapping[str, Answers]
    """Name -> answers, in the order of the models of the evaluation."""


def by_set(found: EvalSamples) -> dict[str, SetAnswers]:
    """Sort all samples by set, model and item.

    A model without a single sample in a set was not asked that set.
    """
    sorted_: dict[tuple[str, str], dict[str, list[Sample]]] = {}
    for sample in found.samples:
        own = sorted_.setdefault((sample.set, sample.model), {})
        own.setdefault(sample.item, []).append(sample)
    items: dict[str, list[Item]] = {name: [] for name in found.sets}
    for (name, _), item in found.items.items():
        items[name].append(item)
    made = {}
    for name, each in found.sets.items():
        models = {}
        order = _order(found, items[name])
        items[name] = [item for item in items[name] if found.was_asked(item)]
        groups = groups_of(items[name])
        for model in found.models:
            if (name, model) not in sorted_:
                continue
            answers = sorted_[name, model]
            samples = [
                sorted(answers.get(item.id, ()), key=lambda one: one.sample) for item in items[name]
            ]
            models[model] = Answers(model, samples, each.samples, groups, order)
        made[name] = SetAnswers(items[name], models)
    return made


def _order(found: EvalSamples, items: Sequence[Item]) -> RandomOrder | None:
    """Return the order in which the items of a set were asked, if it could stop early."""
    places = [item.order for item in items if found.was_asked(item) and item.order is not UNSET]
    if not places:
        return None
    return RandomOrder(np.array(places, np.int64), largest_group(groups_of(items)))
