"""The outcome of a run from its records: its report, or the reason why there is none.

Nothing here asks a cluster or needs more than read access to the artifacts, so CI can judge a run
with few rights and long after its machines are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.delta_report import DeltaReport, load_report
from tuneloop.artifacts.evaluation.verdict import read_verdict
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.errors import InputMissing
from tuneloop.history.stored import stage_names
from tuneloop.storage import paths

REPORT, REPORT_TEXT = "delta_report.json", "delta_report.md"
SAMPLING_REPORT = "sampling_report.md"


@dataclass(frozen=True)
class Failure:
    """The stored verdict on a stage that failed."""

    stage: str
    state: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run, from its records."""

    run_id: str
    report: DeltaReport | None
    """None until the eval stage has its record."""
    report_url: str | None
    """URL of the Markdown report; None without a report."""
    missing: tuple[str, ...]
    """Stages without a record, in execution order."""
    failure: Failure | None
    """Stored verdict on the first missing stage; None if it has not failed."""
    samples: Record | None = None
    """Record of the sample stage; None without one."""
    is_evaluated: bool = True
    """Whether the run has an eval stage, done or not."""


def load_outcome(artifacts: str, run_id: str) -> Outcome:
    """Read the outcome of a run.

    Raises:
        InputMissing: there is no such run.
        DataError: a record or the report is broken.
    """
    manifest = read_run_manifest(artifacts, run_id)
    if manifest is None:
        raise InputMissing(
            f"{layout.run_manifest_url(artifacts, run_id)}: missing, expected the manifest of a"
            " run; check the run id and --artifacts"
        )
    found = {s: records.find(artifacts, run_id, s) for s in stage_names(manifest)}
    missing = tuple(stage for stage, record in found.items() if record is None)
    evaluated = found.get("eval")
    report, url = None, None
    if evaluated is not None:
        file = evaluated.output(REPORT)
        report = load_report(records.read_output(file, artifacts), f"{artifacts}/{file.path}")
        url = paths.join(layout.run_prefix(artifacts, run_id), REPORT_TEXT)
    failure = _failure(artifacts, run_id, missing[0]) if missing else None
    return Outcome(
        run_id, report, url, missing, failure, found.get("sample"), is_evaluated="eval" in found
    )


def read_report(artifacts: str, run_id: str) -> str:
    """Read and verify the Markdown report; InputMissing if there is none."""
    evaluated = records.find(artifacts, run_id, "eval")
    if evaluated is None:
        raise InputMissing(
            f"run {run_id}: no report: stage eval has no record yet; wait for the run"
        )
    return records.read_output(evaluated.output(REPORT_TEXT), artifacts).decode("utf-8", "replace")


def read_sampling_report(artifacts: str, sampled: Record) -> str:
    """Read and verify the Markdown report of a sample stage."""
    file = sampled.output(SAMPLING_REPORT)
    return records.read_output(file, artifacts).decode("utf-8", "replace")


def _failure(artifacts: str, run_id: str, stage: str) -> Failure | None:
    found = read_verdict(layout.stage_prefix(artifacts, run_id, stage))
    return Failure(stage, found.state, found.cause, found.fix) if found else None


def required_report(outcome: Outcome) -> DeltaReport:
    """Return the report of an outcome.

    Raises:
        InputMissing: there is no report; the message gives the reason.
    """
    if outcome.report is not None:
        return outcome.report
    if outcome.failure is not None:
        failed = outcome.failure
        why = f"stage {failed.stage}: {failed.state}: {failed.cause}; {failed.fix}"
    elif not outcome.is_evaluated:
        why = "it has no eval stage; name a run that trains and evaluates a model"
    else:
        why = f"stage {outcome.missing[0]} has no record yet; wait for the run"
    raise InputMissing(f"run {outcome.run_id}: no report: {why}")
