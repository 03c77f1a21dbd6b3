"""The scores of the arms, read from the answers of their evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import load_samples
from tuneloop.artifacts.rounds.store import RoundsManifest
from tuneloop.errors import DataError
from tuneloop.evaluation.statistics.arrays import SetScores, scores_of_sets
from tuneloop.evaluation.statistics.dtypes import Floats, Groups

BASE, TUNED = "base", "tuned"
REQUIRED = "required"
"""Name of all required sets together."""


@dataclass(frozen=True)
class RunScores:
    """The scores of one evaluated run: base model and tuned model on the same items."""

    base: Mapping[str, Floats]
    """Name of a set -> (items,), scores of the base model of its round, 0 to 1. The required sets
    have one entry together, `required`; guarded sets have their own names."""
    tuned: Mapping[str, Floats]
    groups: Mapping[str, Groups]
    """Name of a set -> (items,), number of each item's group."""
    is_from_first: bool = True
    """Whether its base model is that of the first round, which no selected sample has changed."""


@dataclass(frozen=True)
class Cell:
    """Where a run is in the rounds."""

    seed: int
    round: int
    role: str


Scores = Mapping[Cell, RunScores]
"""Runs with an evaluation. `start` is the run that trains the first base model."""


def read_scores(manifest: RoundsManifest, artifacts: str) -> dict[Cell, RunScores]:
    """Read the scores of all members that are evaluated, except those with broken files."""
    found = {}
    first = {each.seed: each.base for each in manifest.members if each.round == 1}
    for member in manifest.members:
        with contextlib.suppress(DataError):  # the table of all runs says what is wrong
            sets = _read_sets(artifacts, member.run_id)
            if sets is not None:
                is_from_first = member.base == first.get(member.seed)
                scores = replace(join_sets(sets), is_from_first=is_from_first)
                found[Cell(member.seed, member.round, member.role)] = scores
    return found


def _read_sets(artifacts: str, run_id: str) -> dict[str, SetScores] | None:
    record = records.find(artifacts, run_id, "eval")
    if record is None:
        return None
    file = record.output("samples.jsonl")
    lines = records.read_output(file, artifacts).splitlines()
    return scores_of_sets(load_samples(lines, f"{artifacts}/{file.path}"))


def join_sets(sets: Mapping[str, SetScores]) -> RunScores:
    """Join the required sets of a run; informative sets are not judged."""
    required = [each for each in sets.values() if each.eval_set.weight == "required"]
    guarded = {n: each for n, each in sets.items() if each.eval_set.weight == "guarded"}
    named = {REQUIRED: required, **{f"guarded set {n}": [each] for n, each in guarded.items()}}
    return RunScores(
        base={name: _values(found, BASE) for name, found in named.items()},
        tuned={name: _values(found, TUNED) for name, found in named.items()},
        groups={name: _groups(found) for name, found in named.items()},
    )


def _values(sets: list[SetScores], model: str) -> Floats:
    return np.concatenate([each.models[model].values for each in sets])


def _groups(sets: list[SetScores]) -> Groups:
    """Number the groups of several sets, so that those of different sets differ."""
    found, first = [], 0
    for each in sets:
        found.append(each.groups + first)
        first += int(each.groups.max()) + 1
    return np.concatenate(found)
