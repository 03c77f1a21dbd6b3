from __future__ import annotations

import pytest

from tuneloop.artifacts.delta_report import Accuracy, DeltaReport, Group, Paired
from tuneloop.evaluation.gates import Gate, gate_problems


def accuracy(correct: int) -> Accuracy:
    return Accuracy(correct=correct, wrong=10 - correct, no_answer=0, low=0.0, high=1.0)


REPORT = DeltaReport(
    verdict="improved",
    overall=Group(
        name="all",
        base=accuracy(5),
        tuned=accuracy(8),
        paired=Paired(improved=4, regressed=1, p_value=0.4),
    ),
    categories=(),
    items=(),
)


@pytest.mark.parametrize(
    ("gate", "problems"),
    [
        (Gate(), []),
        (Gate(min_accuracy=0.8, min_gain=0.3, max_regressions=1), []),
        (Gate(min_accuracy=0.81), ["accuracy is 80.0 % (8 of 10), expected at least 81.0 %"]),
        (Gate(min_gain=0.31), ["gain is +30.0 points, expected at least +31.0"]),
        (Gate(max_regressions=0), ["1 items regressed, expected at most 0"]),
        (
            Gate(min_accuracy=float("nan")),
            ["accuracy is 80.0 % (8 of 10), expected at least nan %"],
        ),
    ],
)
def test_every_limit_that_is_missed_is_a_clause(gate: Gate, problems: list[str]) -> None:
    assert gate_problems(REPORT, gate) == problems
