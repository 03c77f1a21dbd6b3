from __future__ import annotations

import pytest

from tuneloop.artifacts.evaluation.accuracy import Accuracy, Group, Paired
from tuneloop.artifacts.evaluation.delta_report import DeltaReport, Guard, LostItem
from tuneloop.evaluation.gates.limits import Gate, gate_problems


def accuracy(correct: int) -> Accuracy:
    return Accuracy(correct=correct, wrong=10 - correct, no_answer=0, low=0.0, high=1.0)


REPORT = DeltaReport(
    verdict="improved",
    overall=Group(
        name="all",
        base=accuracy(5),
        tuned=accuracy(8),
        paired=Paired(improved=4, regressed=1, p_value=0.4, gain_low=0.1, gain_high=0.5),
    ),
    categories=(),
    items=(),
    guard=Guard(
        name="general_v1.jsonl",
        scorer="contains_answer",
        base=accuracy(5),
        tuned=accuracy(6),
        kept=4,
        kept_low=0.4,
        kept_high=0.9,
        lost=(LostItem(id="1", prompt="?", base_text="a", tuned_text="b"),),
    ),
)


@pytest.mark.parametrize(
    ("gate", "problems"),
    [
        (Gate(), []),
        (Gate(min_accuracy=0.8, min_gain=0.3, max_regressions=1), []),
        (Gate(min_accuracy=0.81), ["accuracy is 80.0 % (8 of 10), expected at least 81.0 %"]),
        (Gate(min_gain=0.31), ["gain is +30.0 points, expected at least +31.0"]),
        (Gate(max_regressions=0), ["1 items regressed, expected at most 0"]),
        (Gate(min_gain_low=0.1, min_guard_kept=0.8), []),
        (
            Gate(min_gain_low=0.4),
            ["the lower end of the gain's interval is +10.0, expected at least +40.0"],
        ),
        (
            Gate(min_guard_kept=0.81),
            ["80.0 % of the guarded questions are kept (4 of 5), expected at least 81.0 %"],
        ),
        (
            Gate(min_accuracy=float("nan")),
            ["accuracy is 80.0 % (8 of 10), expected at least nan %"],
        ),
    ],
)
def test_every_limit_that_is_missed_is_a_clause(gate: Gate, problems: list[str]) -> None:
    assert gate_problems(REPORT, gate) == problems


def test_a_gate_needs_the_figures_that_it_asks_for() -> None:
    paired = Paired(improved=4, regressed=1, p_value=0.4)
    old = REPORT.model_copy(
        update={
            "guard": None,
            "overall": REPORT.overall.model_copy(update={"paired": paired}),
        }
    )
    assert gate_problems(old, Gate(min_gain_low=-1, min_guard_kept=0)) == [
        "the lower end of the gain's interval is unknown, expected at least -100.0",
        "the report has no guard set, expected one; set eval.guard_set",
    ]
