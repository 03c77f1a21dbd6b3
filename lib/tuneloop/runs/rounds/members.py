"""The members of rounds: the specs of their runs. Pure, except for the seed of a dataset.

A chain is all rounds of one seed. Its members are a run that trains the first base model, and for
each round a sampling run and a run for each arm.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.runs.rounds.spec import Arm, RoundsSpec
from tuneloop.runs.sweep.expand import apply
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import SampleRunSpec

START = "start"
SAMPLE = "sample"


@dataclass(frozen=True)
class Place:
    """Where a member is in the rounds."""

    seed: int
    round: int
    """Number of the round, from 1; 0 for the run that trains the first base model."""
    role: str
    """`start`, `sample`, or the name of an arm."""

    @property
    def name_part(self) -> str:
        """Part of the name of its run."""
        return self.role if self.role == START else f"r{self.round}-{self.role}"


def start_spec(base: Mapping[str, Any], seed: int) -> RunSpec:
    """Return the spec of the run that trains the first base model of a seed."""
    return RunSpec.model_validate(_named(base, Place(seed, 0, START)))


def arm_spec(
    base: Mapping[str, Any],
    settings: RoundsSpec,
    place: Place,
    *,
    model: Mapping[str, Any],
    dataset: str,
    is_of_samples: bool = False,
) -> RunSpec:
    """Return the spec of an arm.

    Args:
        base: the run spec of the rounds.
        settings: the key `rounds`.
        place: seed, round and arm.
        model: `train.model` of the arm.
        dataset: key of its dataset.
        is_of_samples: whether the rounds have made the dataset, below the artifacts.
    """
    value = apply(_named(base, place), settings.train)
    value["train"].pop("tokenizer", None)  # the base model brings its own
    value["train"]["model"] = dict(model)
    value.get("export", {}).pop("tokenizer", None)
    if is_of_samples:
        value.get("execution", {}).pop("datasets_url", None)
    return RunSpec.model_validate({**value, "dataset": dataset})


def sample_spec(
    base: Mapping[str, Any],
    settings: RoundsSpec,
    place: Place,
    *,
    model: Mapping[str, Any],
    recipe: str,
    instruction: str | None,
) -> SampleRunSpec:
    """Return the spec of a round's sampling run.

    It asks as the arms are trained and evaluated, and none of the prompts of an eval set.

    Args:
        base: the run spec of the rounds.
        settings: the key `rounds`.
        place: seed and round.
        model: the model that answers, as `train.model` names it.
        recipe: recipe of the seed dataset.
        instruction: instruction of the seed dataset.
    """
    run = RunSpec.model_validate({**copy.deepcopy(dict(base)), "seed": place.seed})
    sample = {
        **settings.sample.model_dump(mode="json"),
        "model": dict(model),
        "round": place.round,
        "recipe": recipe,
        "instruction": instruction,
        "apart_from": [each.url for each in run.eval.all_sets],
    }
    return SampleRunSpec.model_validate(
        {
            "name": f"{run.name}-{place.name_part}",
            "seed": place.seed,
            "sample": sample,
            "system_instruction": run.system_instruction,
            "execution": run.execution.model_dump(mode="json", by_alias=True),
        }
    )


def arms_of(settings: RoundsSpec, seed: int, number: int) -> dict[Arm, Place]:
    """Return the places of the arms of a round."""
    return {arm: Place(seed, number, arm) for arm in settings.arms}


def _named(base: Mapping[str, Any], place: Place) -> dict[str, Any]:
    value = copy.deepcopy(dict(base))
    value["name"] = f"{value['name']}-{place.name_part}"
    value["seed"] = place.seed
    return value
