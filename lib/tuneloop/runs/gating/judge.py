"""Judge a finished run by limits and a policy, with the ledger of candidates.

The limits need the report alone. A policy also needs `samples.jsonl` and numpy. Only
`fail_if` writes: the candidate's entry in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, load_samples
from tuneloop.errors import DataError, GateFailed, InputMissing
from tuneloop.evaluation.gates.limits import Gate, gate_problems
from tuneloop.runs.outcome import Outcome, required_report

if TYPE_CHECKING:
    from tuneloop.evaluation.gates.evidence import Evidence
    from tuneloop.evaluation.gates.policy import Policy, SetDecision

SAMPLES, TUNED = "samples.jsonl", "tuned"


@dataclass(frozen=True)
class GateResult:
    """Whether a run passes, with all reasons."""

    run_id: str
    problems: tuple[str, ...]
    """One clause for each condition that fails; empty if the run passes."""
    decisions: tuple[SetDecision, ...] = ()
    """What the test says about each set, if the policy asks for it."""
    baseline: str | None = None
    """Run that it was compared with; None for the base model."""
    digest: str | None = None
    """Digest of the tuned model; None in reports of older versions."""

    @property
    def passed(self) -> bool:
        """Whether no condition fails."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {
            "run_id": self.run_id,
            "passed": self.passed,
            "problems": list(self.problems),
            "baseline": self.baseline,
            "sets": [one.as_json() for one in self.decisions],
        }


def judge_run(
    artifacts: str,
    outcome: Outcome,
    gate: Gate,
    policy: Policy | None = None,
    *,
    baseline: str | None = None,
) -> GateResult:
    """Judge a run.

    Args:
        artifacts: URL of the artifacts.
        outcome: outcome of the run.
        gate: limits of its report.
        policy: conditions on its samples; None if there are none.
        baseline: name of the baseline that takes the place of the base model in the policy.

    Raises:
        InputMissing: there is no report, no baseline, or no samples for a policy.
        DataError: a file is broken, or the baseline does not fit.
    """
    report = required_report(outcome)
    problems = gate_problems(report, gate)
    digest = next((one.digest for one in report.models if one.name == TUNED), None)
    if policy is None:
        return GateResult(outcome.run_id, tuple(problems), digest=digest)
    # These import numpy.
    from tuneloop.evaluation.gates.baselines import current
    from tuneloop.evaluation.gates.evidence import evidence_of
    from tuneloop.evaluation.gates.policy import policy_problems

    run_id, before = outcome.run_id, None
    version = current(artifacts, baseline) if baseline is not None else None
    if version is not None:
        before = _read_samples(artifacts, version.run_id)
    samples = _read_samples(artifacts, run_id)
    evidence = evidence_of(samples, {one.name: one.base for one in report.sets}, before)
    decisions = {}
    if policy.fail_if is not None:
        counted = (one for one in evidence if one.weight != "informative")
        decisions = {one.name: _decide(artifacts, run_id, one, policy) for one in counted}
    return GateResult(
        run_id,
        (*problems, *policy_problems(policy, evidence, decisions)),
        tuple(decisions.values()),
        version.run_id if version is not None else None,
        digest,
    )


def _decide(artifacts: str, run_id: str, evidence: Evidence, policy: Policy) -> SetDecision:
    from tuneloop.evaluation.gates.ledger import register
    from tuneloop.evaluation.gates.policy import decide

    entry = register(
        artifacts,
        base=evidence.base_digest,
        eval_set=evidence.sha256,
        candidate=evidence.candidate_digest,
        run_id=run_id,
    )
    return decide(evidence, entry.number, policy.alpha)


def require_pass(outcome: Outcome, result: GateResult) -> None:
    """Raise GateFailed with every reason, unless the run passes."""
    if result.problems:
        raise GateFailed(
            f"run {outcome.run_id}: {'; '.join(result.problems)}; read {outcome.report_url}, then"
            " change the data, the spec or the gate"
        )


def promote_run(artifacts: str, result: GateResult, name: str) -> str:
    """Make a run that passes the newest version of a baseline; return a sentence.

    Raises:
        GateFailed: the run does not pass.
        DataError: the digest of its model is not known.
    """
    from tuneloop.evaluation.gates.baselines import promote

    if not result.passed:
        raise GateFailed(f"run {result.run_id}: does not pass, so it cannot be a baseline")
    if result.digest is None:
        raise DataError(
            f"run {result.run_id}: its report does not name the tuned model, because an older"
            " version of tuneloop wrote it; evaluate the run again"
        )
    found = promote(artifacts, name, run_id=result.run_id, digest=result.digest)
    return f"{result.run_id}: version {found.number} of the baseline {name}"


def _read_samples(artifacts: str, run_id: str) -> EvalSamples:
    evaluated = records.find(artifacts, run_id, "eval")
    if evaluated is None:
        raise InputMissing(
            f"run {run_id}: no record of stage eval, expected that of a run that was evaluated; if"
            " the run of a baseline was deleted, promote another run"
        )
    if not evaluated.outputs_like(SAMPLES):
        raise InputMissing(
            f"run {run_id}: no {SAMPLES}, expected the answers of its evaluation, which an older"
            " version of tuneloop did not write; evaluate the run again"
        )
    file = evaluated.output(SAMPLES)
    data = records.read_output(file, artifacts)
    return load_samples(data.splitlines(), f"{artifacts}/{file.path}")
