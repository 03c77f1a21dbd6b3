"""Arrays of one eval set from `samples.jsonl`: what all statistics are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from tuneloop.artifacts.evaluation.eval_samples import STATES, EvalSamples, EvalSet, Item, State
from tuneloop.evaluation.statistics.dtypes import Counts, Floats, Groups
from tuneloop.evaluation.statistics.sequential import largest_group, order_of_set


@dataclass(frozen=True)
class ModelScores:
    """One model on all items of one set. A missing sample counts as a score of 0."""

    values: Floats
    """(items,), mean strict score of the item's samples, 0 to 1."""
    lenient: Floats
    """(items,), the same for lenient scores."""
    correct: Counts
    """(items,), number of samples with the state `correct`."""
    samples: Counts
    """(items,), number of samples that are there."""
    states: Mapping[State, int]
    """Number of samples of each state, from strict scores."""
    lenient_states: Mapping[State, int]
    empty: int
    """Samples without any text; they also count under their state."""
    hit_limit: int
    """Samples that reached the token limit, of any state."""
    missing: tuple[str, ...]
    """Items with fewer samples than the set asks for."""
    errors: tuple[str, ...]
    """Items with a sample of the state `error`."""


@dataclass(frozen=True)
class SetScores:
    """All models on one set."""

    eval_set: EvalSet
    ids: tuple[str, ...]
    categories: tuple[str, ...]
    """Category of each item."""
    groups: Groups
    """(items,), number of the item's group; an independent item is a group of its own."""
    not_asked: tuple[str, ...]
    """Items that were not asked, because the evaluation of the set stopped early. The other arrays
    are without them."""
    places: Counts
    """(items,), place of each item in the random order of the whole set."""
    largest: int
    """Items of the largest group of the whole set."""
    models: Mapping[str, ModelScores]
    """Models with at least one sample of this set, in the order of the file."""

    @property
    def total_samples(self) -> int:
        """Denominator of all counts of samples for one model."""
        return len(self.ids) * self.eval_set.samples


def scores_of_sets(found: EvalSamples) -> dict[str, SetScores]:
    """Convert samples to arrays, for each set that has items."""
    items: dict[str, dict[str, int]] = {}
    for (set_name, name), item in found.items.items():
        numbers = items.setdefault(set_name, {})
        if found.was_asked(item):
            numbers[name] = len(numbers)
    columns: dict[str, dict[str, _Columns]] = {name: {} for name in items}
    for sample in found.samples:
        numbers = items[sample.set]
        if sample.item not in numbers:
            continue
        models = columns[sample.set]
        if sample.model not in models:
            models[sample.model] = _Columns(len(numbers))
        column, number = models[sample.model], numbers[sample.item]
        score, lenient = sample.score, sample.lenient_score
        column.values[number] += score.value
        column.lenient[number] += lenient.value
        column.correct[number] += score.state == "correct"
        column.samples[number] += 1
        column.states[score.state] += 1
        column.lenient_states[lenient.state] += 1
        column.empty += not sample.text.strip()
        column.hit_limit += sample.hit_limit
        if score.state == "error":
            column.errors.add(number)
    return {name: _set_scores(found, name, ids, columns[name]) for name, ids in items.items()}


def _set_scores(
    found: EvalSamples, name: str, ids: Mapping[str, int], columns: Mapping[str, _Columns]
) -> SetScores:
    every = [item for item in found.items.values() if item.set == name]
    groups = groups_of(every)
    asked = np.array([item.id in ids for item in every], bool)
    return SetScores(
        eval_set=found.sets[name],
        ids=tuple(ids),
        categories=tuple(found.items[name, each].category for each in ids),
        groups=groups[asked],
        not_asked=tuple(item.id for item in every if item.id not in ids),
        places=_places(found.sets[name], every, groups)[asked],
        largest=largest_group(groups),
        models={
            model: columns[model].finished(tuple(ids), found.sets[name].samples)
            for model in found.models
            if model in columns
        },
    )


def _places(eval_set: EvalSet, items: Sequence[Item], groups: Groups) -> Counts:
    """Return the place of each item in the random order of the set."""
    stated = [item.order for item in items if item.order is not UNSET]
    if len(stated) == len(items):
        return np.array(stated, np.int64)
    places = np.empty(len(items), np.int64)
    places[order_of_set(groups, eval_set.sha256)] = np.arange(len(items))
    return places


class _Columns:
    def __init__(self, items: int) -> None:
        self.values = [0.0] * items
        self.lenient = [0.0] * items
        self.correct = [0] * items
        self.samples = [0] * items
        self.states: dict[State, int] = dict.fromkeys(STATES, 0)
        self.lenient_states: dict[State, int] = dict.fromkeys(STATES, 0)
        self.empty = self.hit_limit = 0
        self.errors: set[int] = set()

    def finished(self, ids: tuple[str, ...], asked: int) -> ModelScores:
        samples = np.array(self.samples, np.int64)
        expected = np.maximum(samples, asked)
        return ModelScores(
            values=np.array(self.values, np.float64) / expected,
            lenient=np.array(self.lenient, np.float64) / expected,
            correct=np.array(self.correct, np.int64),
            samples=samples,
            states=self.states,
            lenient_states=self.lenient_states,
            empty=self.empty,
            hit_limit=self.hit_limit,
            missing=tuple(ids[n] for n in np.flatnonzero(samples < asked)),
            errors=tuple(ids[n] for n in sorted(self.errors)),
        )


def groups_of(items: Sequence[Item]) -> Groups:
    """Return the number of each item's group; an independent item is a group of its own."""
    codes: dict[tuple[str, str], int] = {}
    keys = [("item", item.id) if item.group is None else ("group", item.group) for item in items]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)
