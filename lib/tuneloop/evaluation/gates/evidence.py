"""What a policy judges: the scores of two models on the items of each eval set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Weight
from tuneloop.errors import DataError
from tuneloop.evaluation.statistics.arrays import ModelScores, SetScores, scores_of_sets
from tuneloop.evaluation.statistics.dtypes import Counts, Floats, Groups

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
    """Items that were asked."""
    groups: Groups
    places: Counts
    """(items,), place of each item in the random order of the whole set."""
    largest: int
    """Items of the largest group of the whole set."""
    base: Floats
    """(items,), scores of the base model or the baseline, 0 to 1; 0 if an answer is missing."""
    candidate: Floats
    failed: tuple[str, ...]
    """Items with a missing answer of one of the models, or with one that could not be scored."""
    not_asked: tuple[str, ...] = ()
    """Items that were not asked, because an evaluation stopped early; none of them has failed."""
    stopped_for: int | None = None
    """Candidate for which the evidence was enough when an evaluation stopped; None if none did."""


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
        digests = models[base].digest, samples.models[TUNED].digest
        found.append(_evidence((known[name], before[name]), (own, other), digests))
    return tuple(found)


def _evidence(
    sets: tuple[SetScores, SetScores],
    scores: tuple[ModelScores, ModelScores],
    digests: tuple[str, str],
) -> Evidence:
    """Put the candidate's scores and those of its base together.

    Args:
        sets: the set in the run of the candidate, and in that of the base.
        scores: of the candidate, and of the base.
        digests: of the base, and of the candidate.
    """
    (own, other), (candidate, base) = sets, scores
    # Runs that stopped after different numbers of items have the first ones in common.
    shared = set(own.ids) & set(other.ids)
    ids = tuple(one for one in own.ids if one in shared)
    rows = np.array([n for n, one in enumerate(own.ids) if one in shared], np.int64)
    rows_before = np.array([n for n, one in enumerate(other.ids) if one in shared], np.int64)
    stops = [each.eval_set.stopping for each in sets if each.not_asked]
    return Evidence(
        name=own.eval_set.name,
        sha256=own.eval_set.sha256,
        weight=own.eval_set.weight,
        base_digest=digests[0],
        candidate_digest=digests[1],
        ids=ids,
        groups=own.groups[rows],
        places=own.places[rows],
        largest=own.largest,
        base=base.values[rows_before],
        candidate=candidate.values[rows],
        failed=_in_order(ids, {*_failed(candidate), *_failed(base)}),
        not_asked=tuple(dict.fromkeys((*own.not_asked, *other.not_asked))),
        stopped_for=min((each.candidate for each in stops if each is not UNSET), default=None),
    )


def _scores(known: Mapping[str, SetScores], name: str, model: str, place: str) -> ModelScores:
    if name not in known or model not in known[name].models:
        raise DataError(
            f"samples.jsonl of {place}: no answers of {model} to the set {name}; evaluate it with"
            " this set"
        )
    return known[name].models[model]


def _check_same(own: SetScores, other: SetScores) -> None:
    stopped = own.not_asked or other.not_asked
    if own.eval_set.sha256 != other.eval_set.sha256 or (own.ids != other.ids and not stopped):
        raise DataError(
            f"set {own.eval_set.name}: the baseline was evaluated on other items"
            f" ({other.eval_set.sha256[:12]}…, expected {own.eval_set.sha256[:12]}…); evaluate the"
            " baseline's model on this set"
        )


def _failed(scores: ModelScores) -> tuple[str, ...]:
    return (*scores.missing, *scores.errors)


def _in_order(ids: tuple[str, ...], chosen: set[str]) -> tuple[str, ...]:
    return tuple(one for one in ids if one in chosen)
