"""Read what a run was planned with, and refuse it if it has changed since."""

from __future__ import annotations

import hashlib
from typing import Any

from tuneloop import resources
from tuneloop.errors import DataError, InputMissing
from tuneloop.evaluation.scorers.scoring import ScorerName
from tuneloop.evaluation.scorers.user_file import UserScorer
from tuneloop.evaluation.sets.planned import load_scorer
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set
from tuneloop.specs.stages import EvalSetRef
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files


def read_planned_set(ref: EvalSetRef, stage: Stage, key: str) -> tuple[EvalItem, ...]:
    """Read an eval set, and enter it among the inputs of the stage.

    Args:
        ref: the set as it was planned.
        stage: the stage.
        key: key of the spec that names the set, for messages.

    Raises:
        InputMissing: the file is gone.
        DataError: the file has changed.
    """
    try:
        data = files.read(resources.input_url(ref.url))
    except FileNotFoundError as e:
        raise InputMissing(f"{ref.url}: missing; put the set there, or change {key}") from e
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise DataError(f"{ref.url}: changed after the run was planned; plan the run again")
    stage.inputs[f"eval_set {ref.name}"] = ref.sha256
    return parse_eval_set(data, ref.url)


def load_planned_scorer(
    named: str | dict[str, Any], place: str, sha256: str | None, stage: Stage, name: str = "scorer"
) -> ScorerName:
    """Load a scorer, and enter it among the inputs of the stage if it is a file.

    Args:
        named: the scorer in the spec.
        place: key of the spec, for messages.
        sha256: digest of the file when the run was planned; None for a scorer of the table.
        stage: the stage.
        name: name of the input.

    Raises:
        DataError: the file has changed.
    """
    scorer = load_scorer(named, place)
    if isinstance(scorer, UserScorer):
        if scorer.sha256 != sha256:
            raise DataError(
                f"{scorer.place}: changed after the run was planned; plan the run again"
            )
        stage.inputs[name] = scorer.sha256
    return scorer
