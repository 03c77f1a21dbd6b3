"""The policy of a gate: which sets have to improve, which items may not regress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tuneloop.evaluation.gates.evidence import Evidence
from tuneloop.evaluation.gates.ledger import ALPHA, alpha_of
from tuneloop.evaluation.statistics.sequential import Decision, look

FailIf = Literal["regressed", "not-improved"]
BASELINE = "baseline"
"""Value of `approved` that means all items that the base answers correctly."""
SHOWN_ITEMS = 5


@dataclass(frozen=True)
class Policy:
    """Conditions under which a run fails; None sets no condition."""

    fail_if: FailIf | None = None
    """`regressed`: a required or guarded set has got worse. `not-improved`: the same, or a required
    set is not shown to be better."""
    approved: Literal["baseline"] | frozenset[str] | None = None
    """Items that may not regress: those with the highest score of the base, or these."""
    max_set_loss: float | None = None
    """Largest loss of accuracy of a required set, 0 to 1."""
    max_errors: int | None = None
    """Largest number of items, over all sets, with a missing or unscored answer of the run or of
    its baseline."""
    alpha: float = ALPHA
    """Probability that any candidate passes `not-improved` although none is better."""


@dataclass(frozen=True)
class SetDecision:
    """What the test that may be looked at any time says about one set."""

    name: str
    weight: str
    items: int
    gain: float
    """Mean difference of the scores, -1 to 1."""
    low: float
    """Lower end of the gain's confidence sequence, which holds over all looks and candidates."""
    high: float
    decision: Decision
    decided_after: int | None
    """Items, in random order, after which the decision was known."""
    candidate: int
    """Number of the candidate in the ledger; 1 if there is no ledger."""
    alpha: float
    """Error that this candidate is allowed."""
    not_asked: int = 0
    """Items that were not asked, because the evaluation stopped early."""
    stopped_for: int | None = None
    """Candidate for which the evidence was enough when the evaluation stopped; None if it did not
    stop early."""

    @property
    def sentence(self) -> str:
        """The decision as a sentence without an end mark."""
        after = f" after {self.decided_after} of {self.items} items" if self.decided_after else ""
        if self.not_asked:
            after += f" ({self.not_asked} more were not asked)"
        return (
            f"set {self.name}: {self.decision}{after}, gain {100 * self.low:+.1f} to"
            f" {100 * self.high:+.1f} points (candidate {self.candidate} against this base on this"
            f" set, error {self.alpha:.2g})"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the decision for `--json`."""
        return asdict(self)


def decide(evidence: Evidence, candidate: int, alpha: float = ALPHA) -> SetDecision:
    """Decide about one set.

    The order of the items is random, with the set's digest as seed: nobody can choose it.

    Args:
        evidence: scores of both models.
        candidate: number of the candidate in the ledger, from 1.
        alpha: error allowed for all candidates together.
    """
    order = np.argsort(evidence.places, kind="stable")
    difference = (evidence.candidate - evidence.base)[order]
    groups = evidence.groups[order]
    own = alpha_of(candidate, alpha)
    found = look(difference, groups, own, largest=evidence.largest)
    return SetDecision(
        name=evidence.name,
        weight=evidence.weight,
        items=found.items,
        gain=float(difference.mean()),
        low=found.low,
        high=found.high,
        decision=found.decision,
        decided_after=found.decided_after,
        candidate=candidate,
        alpha=own,
        not_asked=len(evidence.not_asked),
        stopped_for=evidence.stopped_for,
    )


def policy_problems(
    policy: Policy, evidence: Sequence[Evidence], decisions: Mapping[str, SetDecision]
) -> list[str]:
    """Check a policy.

    Args:
        policy: the conditions.
        evidence: scores on each set.
        decisions: name of the set -> decision; needed for `fail_if`.

    Returns:
        One clause for each condition that fails.
    """
    problems = []
    if policy.max_errors is not None:
        problems += _failed_problems(policy.max_errors, evidence)
    if policy.fail_if is not None:
        for decision in decisions.values():
            problems += _decision_problems(policy.fail_if, decision)
    if policy.approved is not None:
        problems += _approved_problems(policy.approved, evidence)
    if policy.max_set_loss is not None:
        for one in evidence:
            loss = float((one.base - one.candidate).mean())
            # Negated so that NaN never passes; the tolerance is for sums of tenths.
            if one.weight == "required" and not loss <= policy.max_set_loss + 1e-9:
                problems.append(
                    f"set {one.name} lost {100 * loss:.1f} points, expected at most"
                    f" {100 * policy.max_set_loss:.1f}"
                )
    return problems


def _decision_problems(fail_if: FailIf, found: SetDecision) -> list[str]:
    if found.weight == "informative":
        return []
    interval = f"gain {100 * found.low:+.1f} to {100 * found.high:+.1f} points"
    which = f"candidate {found.candidate}, {interval}"
    if found.decision == "regressed":
        return [f"set {found.name} has regressed ({which})"]
    if fail_if == "not-improved" and found.weight == "required" and found.decision != "improved":
        return [f"set {found.name} is not shown to have improved ({which}){_too_early(found)}"]
    return []


def _too_early(found: SetDecision) -> str:
    """Say that an evaluation stopped before there was enough evidence for this candidate."""
    if not found.not_asked or found.stopped_for is None:
        return ""
    return (
        f": its evaluation stopped with the evidence that candidate {found.stopped_for} needs, and"
        f" {found.not_asked} questions were not asked; evaluate it again with"
        f" eval.stop_candidate: {found.candidate}, or without eval.stop_early"
    )


def _approved_problems(
    approved: Literal["baseline"] | frozenset[str], evidence: Sequence[Evidence]
) -> list[str]:
    problems = []
    lost = []
    for one in evidence:
        if one.weight == "informative":
            continue
        for item, base, candidate in zip(one.ids, one.base, one.candidate, strict=True):
            if approved == BASELINE:
                is_lost = base == 1 and candidate < 1
            else:
                is_lost = item in approved and candidate < 1
            if is_lost:
                lost.append(f"{one.name}/{item}")
    if lost:
        problems.append(f"{len(lost)} approved items are not correct: {_listed(lost)}")
    if isinstance(approved, frozenset):
        skipped = {item for one in evidence for item in one.not_asked} & approved
        if skipped:
            problems.append(
                f"{len(skipped)} approved items were not asked, because the evaluation stopped"
                f" early, so nobody knows whether they are correct: {_listed(sorted(skipped))};"
                " evaluate without eval.stop_early"
            )
            approved -= skipped
        unknown = sorted(approved - {item for one in evidence for item in one.ids})
        if unknown:
            problems.append(f"{len(unknown)} approved items are in no set: {_listed(unknown)}")
    return problems


def _failed_problems(max_errors: int, evidence: Sequence[Evidence]) -> list[str]:
    failed = [f"{one.name}/{item}" for one in evidence for item in one.failed]
    if len(failed) <= max_errors:
        return []
    return [
        f"{len(failed)} items have a missing or unscored answer, expected at most {max_errors}:"
        f" {_listed(failed)}"
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_ITEMS
    return ", ".join(names[:SHOWN_ITEMS]) + (f" and {more} more" if more > 0 else "")
