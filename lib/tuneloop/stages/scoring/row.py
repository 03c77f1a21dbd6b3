"""What the row of the score stage takes from a plan: fields, identity and summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts.results import ScoreCounts
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.specs.stages import DatasetRef, EvalSetRef, ScoreStage

if TYPE_CHECKING:
    from tuneloop.artifacts.records import Record

Fields = dict[str, Any]


@dataclass(frozen=True)
class ScoreInputs:
    """Everything outside the code that the results of a scoring run depend on."""

    spec: ScoreRunSpec
    dataset: DatasetRef
    seed: int
    criteria: str
    """Name of the scores."""
    expected: EvalSetRef | None
    """The eval set with the expected answers."""
    scorer_sha256: str | None
    """Digest of the Python file that scores."""


def fields(inputs: ScoreInputs) -> Fields:
    """Return the fields of the stage's spec besides those that every stage spec has."""
    return {
        "options": inputs.spec.score,
        "criteria": inputs.criteria,
        "expected": inputs.expected,
        "scorer_sha256": inputs.scorer_sha256,
    }


def identity(inputs: ScoreInputs) -> Fields:
    """Return contents instead of names and places of the eval set and the scorer."""
    options = inputs.spec.score
    scorer: Any = options.scorer
    if inputs.scorer_sha256 is not None:
        scorer = [str(scorer).rsplit("/", 1)[-1], inputs.scorer_sha256]
    return {
        "limit": options.limit,
        "reading": options.reading,
        "criteria": inputs.criteria,
        "scorer": scorer,
        "expected": None if inputs.expected is None else inputs.expected.sha256,
    }


def inputs_of(inputs: ScoreInputs) -> Fields:
    """Return digests of outside inputs."""
    return {"dataset": inputs.dataset.build_id}


def uses_store(spec: ScoreStage) -> bool:
    """Return whether the stage reads its traces from a trace store."""
    return (spec.execution.datasets_url or "").startswith("http")


def summary(record: Record) -> str:
    """Describe a finished stage in one line."""
    counts = record.counts_as(ScoreCounts)
    return (
        f"{counts.scored} of {counts.traces} traces scored, {counts.no_expected_answer} without an"
        f" expected answer, {counts.unscorable} that the scorer cannot judge"
    )
