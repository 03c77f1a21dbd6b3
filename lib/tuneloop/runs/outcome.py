"""What a run came to, from its records alone: the numbers of its report, or why there is none.

One rule: nothing here asks a cluster or needs more than read access to the artifacts, so that CI
judges a run long after its machines are gone, and with the fewest rights.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.delta_report import DeltaReport, load_report
from tuneloop.artifacts.verdict import read_verdict
from tuneloop.errors import GateFailed, InputMissing
from tuneloop.evaluation.gates import Gate, gate_problems
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths

REPORT, REPORT_TEXT = "delta_report.json", "delta_report.md"


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
    report: DeltaReport | None
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
        report = load_report(records.read_output(file, artifacts), f"{artifacts}/{file.path}")
        url = paths.join(layout.run_prefix(artifacts, run_id), REPORT_TEXT)
    failure = _failure(artifacts, run_id, missing[0]) if missing else None
    return Outcome(run_id, report, url, missing, failure)


def read_report(artifacts: str, run_id: str) -> str:
    """The report for people as eval's record names it, verified; there has to be one."""
    evaluated = records.find(artifacts, run_id, "eval")
    if evaluated is None:
        raise InputMissing(f"run {run_id}: no report: eval has no record; wait for the run")
    return records.read_output(evaluated.output(REPORT_TEXT), artifacts).decode("utf-8", "replace")


def _failure(artifacts: str, run_id: str, stage: str) -> Failure | None:
    found = read_verdict(layout.stage_prefix(artifacts, run_id, stage))
    return Failure(stage, found.state, found.cause, found.fix) if found else None


def required_report(outcome: Outcome) -> DeltaReport:
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


def check_gate(outcome: Outcome, gate: Gate) -> DeltaReport:
    """Hold a run's report against a gate.

    Raises:
        InputMissing: there is no report.
        GateFailed: it is worse than asked, every way in which it is in one sentence.
    """
    report = required_report(outcome)
    problems = gate_problems(report, gate)
    if problems:
        raise GateFailed(
            f"run {outcome.run_id}: {'; '.join(problems)}; look at {outcome.report_url}, then"
            " change data or spec, or the gate"
        )
    return report
