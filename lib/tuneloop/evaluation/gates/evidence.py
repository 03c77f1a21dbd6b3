"""What a policy judges: the scores of two models on the items of each eval set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tuneloop.artifacts.eval_samples import EvalSamples, Weight
from tuneloop.errors import DataError
from tuneloop.evaluation.statistics.arrays import ModelScores, SetScores, scores_of_sets
from tuneloop.evaluation.statistics.dtypes import Floats, Groups

TUNED = "tuned"
"""Name of the candidate in `samples.jsonl`."""


@dataclass(frozen=True)
class Evidence:
    """Two models on one set."""

    name: str
    sha256: str
    """Digest of the set."""
    weight: Weight
    base_digest: str
    candidate_digest: str
    ids: tuple[str, ...]
    groups: Groups
    base: Floats
    """(items,), scores of the base model or the baseline, 0 to 1; 0 if an answer is missing."""
    candidate: Floats
    failed: tuple[str, ...]
    """Items with a missing answer of one of the models, or with one that could not be scored."""


def evidence_of(
    samples: EvalSamples, bases: Mapping[str, str], baseline: EvalSamples | None = None
) -> tuple[Evidence, ...]:
    """Collect the scores of the candidate and of what it is compared with.

    Args:
        samples: answers of the candidate's run.
        bases: name of each compared set -> name of the base model, as the report chose it.
        baseline: answers of the run that is the baseline; its tuned model takes the place of the
            base model. It has to know the same sets.

    Raises:
        DataError: a set, a model or an item is missing.
    """
    known = scores_of_sets(samples)
    before = known if baseline is None else scores_of_sets(baseline)
    models = samples.models if baseline is None else baseline.models
    found = []
    for name, base in bases.items():
        base = base if baseline is None else TUNED
        own = _scores(known, name, TUNED, "the run")
        place = "the run" if baseline is None else "the baseline"
        other = _scores(before, name, base, place)
        _check_same(known[name], before[name])
        found.append(
            Evidence(
                name=name,
                sha256=known[name].eval_set.sha256,
                weight=known[name].eval_set.weight,
                base_digest=models[base].digest,
                candidate_digest=samples.models[TUNED].digest,
                ids=known[name].ids,
                groups=known[name].groups,
                base=other.values,
                candidate=own.values,
                failed=_in_order(known[name].ids, {*_failed(own), *_failed(other)}),
            )
        )
    return tuple(found)


def _scores(known: Mapping[str, SetScores], name: str, model: str, place: str) -> ModelScores:
    if name not in known or model not in known[name].models:
        raise DataError(
            f"samples.jsonl of {place}: no answers of {model} to the set {name}; evaluate it with"
            " this set"
        )
    return known[name].models[model]


def _check_same(own: SetScores, other: SetScores) -> None:
    if own.eval_set.sha256 != other.eval_set.sha256 or own.ids != other.ids:
        raise DataError(
            f"set {own.eval_set.name}: the baseline was evaluated on other items"
            f" ({other.eval_set.sha256[:12]}…, expected {own.eval_set.sha256[:12]}…); evaluate the"
            " baseline's model on this set"
        )


def _failed(scores: ModelScores) -> tuple[str, ...]:
    return (*scores.missing, *scores.errors)


def _in_order(ids: tuple[str, ...], chosen: set[str]) -> tuple[str, ...]:
    return tuple(one for one in ids if one in chosen)


def largest_group(groups: Groups) -> int:
    """Return the number of items of the largest group."""
    return int(np.bincount(np.unique(groups, return_inverse=True)[1]).max(initial=1))
