"""The figures of the delta report from outcomes: accuracy of a model, and two models compared."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.artifacts.delta_report import Accuracy, Outcome, Paired
from tuneloop.evaluation.statistics.intervals import gain_interval, share_interval
from tuneloop.evaluation.statistics.paired import mcnemar_p


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Count outcomes and compute the 95 % Wilson interval of the accuracy.

    Args:
        outcomes: at least one outcome.
    """
    correct = outcomes.count("correct")
    low, high = share_interval(correct, len(outcomes))
    return Accuracy(
        correct=correct,
        wrong=outcomes.count("wrong"),
        no_answer=outcomes.count("no_answer"),
        low=low,
        high=high,
    )


def compare(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Paired:
    """Compare the models' outcomes with the exact McNemar test.

    Args:
        base: outcomes of the base model.
        tuned: outcomes of the tuned model for the same items in the same order.
    """
    pairs = [(b == "correct", t == "correct") for b, t in zip(base, tuned, strict=True)]
    improved, regressed = pairs.count((False, True)), pairs.count((True, False))
    low, high = gain_interval(improved, regressed, len(pairs))
    return Paired(
        improved=improved,
        regressed=regressed,
        p_value=mcnemar_p(regressed, improved),
        gain_low=low,
        gain_high=high,
    )
