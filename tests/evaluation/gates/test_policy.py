from __future__ import annotations

import numpy as np
import pytest

from tuneloop.artifacts.evaluation.eval_samples import Weight
from tuneloop.evaluation.gates.evidence import Evidence
from tuneloop.evaluation.gates.policy import FailIf, Policy, decide, policy_problems
from tuneloop.evaluation.statistics.sequential import order_of_set


def evidence(
    won: int,
    lost: int,
    same: int,
    *,
    name: str = "sums",
    weight: Weight = "required",
    failed: tuple[str, ...] = (),
) -> Evidence:
    """Items that only the candidate, only the base, or both answer correctly, in this order."""
    items = won + lost + same
    return Evidence(
        name=name,
        sha256="5e" * 32,
        weight=weight,
        base_digest="b",
        candidate_digest="c",
        ids=tuple(f"{name}-{n}" for n in range(items)),
        groups=np.arange(items),
        places=np.argsort(order_of_set(np.arange(items), "5e" * 32)),
        largest=1,
        base=np.repeat([0.0, 1.0, 1.0], (won, lost, same)),
        candidate=np.repeat([1.0, 0.0, 1.0], (won, lost, same)),
        failed=failed,
    )


def test_a_set_is_decided_in_an_order_that_is_not_the_files() -> None:
    found = decide(evidence(60, 20, 220), candidate=1)
    assert found.decision == "improved" and found.gain == pytest.approx(40 / 300)
    # In the order of the file, the first 60 items are won: ten of them would decide.
    assert found.decided_after is not None and found.decided_after > 40
    assert found == decide(evidence(60, 20, 220), candidate=1)
    assert 0 < found.low < found.gain < found.high


def test_the_tenth_candidate_needs_more_evidence_than_the_first() -> None:
    first, tenth = (decide(evidence(40, 14, 246), candidate=n) for n in (1, 10))
    assert (first.decision, tenth.decision) == ("improved", "undecided")
    assert first.alpha == pytest.approx(100 * tenth.alpha)
    assert tenth.low < 0 < first.low


@pytest.mark.parametrize(
    ("won", "lost", "weight", "fail_if", "said"),
    [
        (60, 20, "required", "not-improved", None),
        (20, 20, "required", "not-improved", "set sums is not shown to have improved (candidate 1"),
        (20, 20, "required", "regressed", None),
        (20, 60, "required", "regressed", "set sums has regressed (candidate 1, gain -"),
        (20, 60, "required", "not-improved", "set sums has regressed"),
        (20, 20, "guarded", "not-improved", None),
        (20, 60, "guarded", "not-improved", "set sums has regressed"),
        (20, 60, "informative", "not-improved", None),
    ],
)
def test_fail_if(won: int, lost: int, weight: Weight, fail_if: FailIf, said: str | None) -> None:
    found = evidence(won, lost, 220, weight=weight)
    policy = Policy(fail_if=fail_if)
    problems = policy_problems(policy, [found], {"sums": decide(found, 1)})
    assert (problems == []) == (said is None)
    assert said is None or (len(problems) == 1 and said in problems[0])


def test_no_approved_item_may_regress() -> None:
    sets = [
        evidence(3, 2, 5),
        evidence(0, 7, 3, name="general", weight="guarded"),
        evidence(0, 7, 3, name="other", weight="informative"),
    ]
    (problem,) = policy_problems(Policy(approved="baseline"), sets, {})
    assert problem == (
        "9 approved items are not correct: sums/sums-3, sums/sums-4, general/general-0,"
        " general/general-1, general/general-2 and 4 more"
    )
    named = frozenset({"sums-0", "sums-9"})
    assert policy_problems(Policy(approved=named), sets, {}) == []
    (problem,) = policy_problems(Policy(approved=named | {"sums-4"}), sets, {})
    assert problem == "1 approved items are not correct: sums/sums-4"
    (problem,) = policy_problems(Policy(approved=named | {"é 🦊"}), sets, {})
    assert problem == "1 approved items are in no set: é 🦊"


def test_required_sets_may_lose_only_so_much() -> None:
    sets = [evidence(0, 2, 8), evidence(0, 7, 3, name="general", weight="guarded")]
    assert policy_problems(Policy(max_set_loss=0.2), sets, {}) == []
    (problem,) = policy_problems(Policy(max_set_loss=0.19), sets, {})
    assert problem == "set sums lost 20.0 points, expected at most 19.0"
    assert policy_problems(Policy(max_set_loss=float("nan")), sets, {}) != []


def test_failed_items_fail() -> None:
    sets = [evidence(1, 0, 9, failed=("sums-1", "sums-2"))]
    assert policy_problems(Policy(max_errors=2), sets, {}) == []
    (problem,) = policy_problems(Policy(max_errors=1), sets, {})
    assert problem == (
        "2 items have a missing or unscored answer, expected at most 1: sums/sums-1, sums/sums-2"
    )
