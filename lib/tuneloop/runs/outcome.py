"""What a run came to, from its records alone: the numbers of its report, or why there is none.

One rule: nothing here asks a cluster or needs more than read access to the artifacts, so that CI
judges a run long after its machines are gone, and with the fewest rights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.delta_report import Accuracy, Paired
from tuneloop.artifacts.verdict import read_verdict
from tuneloop.errors import DataError, GateFailed, InputMissing
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths
from tuneloop.validation import first_error

REPORT, REPORT_TEXT = "delta_report.json", "delta_report.md"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Group(_Part):
    """Both models on one group of items."""

    name: str
    base: Accuracy
    tuned: Accuracy
    paired: Paired

    @property
    def gain(self) -> float:
        """Accuracy won by tuning, -1 to 1; counted, so that 3 of 10 is 0.3 exactly."""
        return (self.tuned.correct - self.base.correct) / self.tuned.total


class Said(_Part):
    """What one model said to one item."""

    answer: str | None
    outcome: Literal["correct", "wrong", "no_answer"]


class Item(_Part):
    """One item of the eval set."""

    id: str
    category: str
    base: Said
    tuned: Said

    @property
    def has_regressed(self) -> bool:
        """Whether only the base had it right."""
        return self.base.outcome == "correct" != self.tuned.outcome


class Report(_Part):
    """The numbers of `delta_report.json`."""

    verdict: str
    overall: Group
    categories: list[Group]
    items: list[Item]


@dataclass(frozen=True)
class Failure:
    """The verdict that a supervisor left on a stage without a record."""

    stage: str
    state: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Outcome:
    """A run, as its records show it."""

    run_id: str
    report: Report | None
    """None until eval has its record."""
    report_url: str | None
    """The report for people."""
    missing: tuple[str, ...]
    """Stages that have no record, in order."""
    failure: Failure | None
    """Of the first of them, if a supervisor gave it up."""


def load_outcome(artifacts: str, run_id: str) -> Outcome:
    """Read what a run came to.

    Raises:
        InputMissing: there is no such run.
        DataError: a record or the report is broken.
    """
    manifest = paths.join(layout.run_prefix(artifacts, run_id), "run_manifest.json")
    if not files.exists(manifest):
        raise InputMissing(
            f"{manifest}: missing, expected a run's; check run id and --artifacts, or submit it"
        )
    missing = tuple(s for s in STAGES if records.find(artifacts, run_id, s) is None)
    evaluated = records.find(artifacts, run_id, "eval")
    report, url = None, None
    if evaluated is not None:
        file = evaluated.output(REPORT)
        report = _parse(records.read_output(file, artifacts), f"{artifacts}/{file.path}")
        url = paths.join(layout.run_prefix(artifacts, run_id), REPORT_TEXT)
    failure = _failure(artifacts, run_id, missing[0]) if missing else None
    return Outcome(run_id, report, url, missing, failure)


def read_report(artifacts: str, run_id: str) -> str:
    """The report for people as eval's record names it, verified; there has to be one."""
    evaluated = records.find(artifacts, run_id, "eval")
    if evaluated is None:
        raise InputMissing(f"run {run_id}: no report: eval has no record; wait for the run")
    return records.read_output(evaluated.output(REPORT_TEXT), artifacts).decode("utf-8", "replace")


def _parse(data: bytes, place: str) -> Report:
    try:
        return Report.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{place}: not a report: {first_error(e)}; was it made by another version of tuneloop?"
            " run the eval stage again"
        ) from e


def _failure(artifacts: str, run_id: str, stage: str) -> Failure | None:
    found = read_verdict(layout.stage_prefix(artifacts, run_id, stage))
    return Failure(stage, found.state, found.cause, found.fix) if found else None


def required_report(outcome: Outcome) -> Report:
    """The report; a sentence why there is none.

    Raises:
        InputMissing: eval has no record.
    """
    if outcome.report is not None:
        return outcome.report
    if outcome.failure is not None:
        failed = outcome.failure
        why = f"stage {failed.stage}: {failed.state}: {failed.cause}; {failed.fix}"
    else:
        why = f"stage {outcome.missing[0]} has no record yet; wait for the run"
    raise InputMissing(f"run {outcome.run_id}: no report: {why}")


@dataclass(frozen=True)
class Gate:
    """What a result has to be; None asks nothing."""

    min_accuracy: float | None = None
    """Of the tuned model, as a share."""
    min_gain: float | None = None
    """Accuracy of tuned less that of base, as a share; 0: it must not have become worse."""
    max_regressions: int | None = None
    """Items that only the base had right."""


def check_gate(outcome: Outcome, gate: Gate) -> Report:
    """Hold a run's report against a gate.

    Raises:
        InputMissing: there is no report.
        GateFailed: it is worse than asked, every way in which it is in one sentence.
    """
    report = required_report(outcome)
    found = report.overall
    problems = []
    # Asked as "not at least", so that a NaN never opens the gate.
    if gate.min_accuracy is not None and not found.tuned.share >= gate.min_accuracy:
        problems.append(
            f"accuracy is {_percent(found.tuned.share)} ({found.tuned.correct} of"
            f" {found.tuned.total}), expected at least {_percent(gate.min_accuracy)}"
        )
    if gate.min_gain is not None and not found.gain >= gate.min_gain:
        problems.append(
            f"gain is {100 * found.gain:+.1f} points, expected at least {100 * gate.min_gain:+.1f}"
        )
    regressed = found.paired.regressed
    if gate.max_regressions is not None and not regressed <= gate.max_regressions:
        problems.append(f"{regressed} items regressed, expected at most {gate.max_regressions}")
    if problems:
        raise GateFailed(
            f"run {outcome.run_id}: {'; '.join(problems)}; look at {outcome.report_url}, then"
            " change data or spec, or the gate"
        )
    return report


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
