"""Read a run spec with the key `rounds`, and validate its members before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from tuneloop.errors import SpecError
from tuneloop.runs.planning.keyed_spec import read_keyed_spec
from tuneloop.runs.planning.spec_file import check_shard_counts
from tuneloop.runs.rounds.members import SAMPLE, Place, arm_spec, arms_of, sample_spec, start_spec
from tuneloop.runs.rounds.spec import KEY, MAX_NAME, RoundsSpec
from tuneloop.specs.renamed_keys import RENAMED_KEYS, RENAMED_KINDS
from tuneloop.specs.run import RunSpec
from tuneloop.specs.training.model import PretrainedModelSpec
from tuneloop.validation import all_errors, path_of
from tuneloop.yaml_in import line_of, validate

SWEEP = "sweep"
_RUN = {"kind": "pretrained", "run": "run-of-the-round-before"}
"""Base model in place of one that is not known before the rounds run."""


@dataclass(frozen=True)
class RoundsFile:
    """Rounds, and the spec of the run that all members are made from."""

    url: str
    settings: RoundsSpec
    spec: RunSpec
    """The spec without its key `rounds`."""


def load_rounds_file(url: str) -> RoundsFile | None:
    """Read a spec; return None if it has no key `rounds`, or is no YAML mapping at all.

    Raises:
        UsageError: there is no such file.
        SpecError: the rounds or their members are invalid; the message names the line.
    """
    found = read_keyed_spec(url, KEY)
    if found is None:
        return None
    base, root = found.base, found.root
    if SWEEP in base:
        raise SpecError(
            f"{url}:{line_of(root, (SWEEP,))}: found the keys {SWEEP} and {KEY}, expected one of"
            " the two, because each member of a sweep is one run; remove one"
        )
    settings = found.settings(RoundsSpec)
    spec = validate(RunSpec, base, root, url, RENAMED_KEYS, RENAMED_KINDS)
    check_shard_counts(spec, url)
    _check(spec, base, settings, root, url)
    return RoundsFile(url, settings, spec)


def _check(
    spec: RunSpec, base: Mapping[str, Any], settings: RoundsSpec, root: yaml.Node, url: str
) -> None:
    """Refuse what would only fail after the first run."""
    place = f"{url}:{line_of(root, (KEY,))}"
    if len(spec.name) > MAX_NAME:
        raise SpecError(
            f"{url}:{line_of(root, ('name',))}: name is {spec.name}, expected at most {MAX_NAME}"
            " characters, because rounds add to it; shorten it"
        )
    if settings.start == "model" and not isinstance(spec.train.model, PretrainedModelSpec):
        raise SpecError(
            f"{place}: rounds.start is model, but train.model has random weights, expected a"
            " pretrained model; set rounds.start to sft, or name a model"
        )
    if spec.train.continue_from is not None:
        raise SpecError(
            f"{place}: train.continue_from is {spec.train.continue_from}, expected none, because"
            " every round trains a model of its own; remove it"
        )
    if spec.eval.stop_early:
        raise SpecError(
            f"{url}:{line_of(root, ('eval', 'stop_early'))}: eval.stop_early is true, expected"
            " false, because the arms have to answer the same questions; remove it"
        )
    try:
        start_spec(base, 0)
        sample = Place(0, 1, SAMPLE)
        sample_spec(base, settings, sample, model=_RUN, recipe="any", instruction=None)
        arms = [
            arm_spec(base, settings, each, model=_RUN, dataset=spec.dataset)
            for each in arms_of(settings, 0, 1).values()
        ]
    except ValidationError as e:
        found = e.errors()[0]
        value = {**base, "train": {**base.get("train", {})}}
        problem = all_errors(e, value)[0]
        path = ".".join(map(str, path_of(found, value)))
        line = line_of(root, (KEY, "train", path))
        raise SpecError(
            f"{url}:{line}: an arm of the rounds is not a valid run: {problem}; change rounds.train"
        ) from e
    if arms[0].train.steps is None:
        raise SpecError(
            f"{place}: the arms train for epochs, expected train.steps, because all arms make the"
            " same number of steps; set train.steps in rounds.train"
        )
