"""Statistics of the base and the tuned model on the same items, computed with scipy."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from tuneloop.artifacts.delta_report import Accuracy, Outcome, Paired

CONFIDENCE = 0.95


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Count outcomes and compute the 95 % confidence interval of the accuracy.

    It is the Wilson interval (scipy.stats.binomtest), which never leaves the range from 0 to 1.

    Args:
        outcomes: at least one outcome.
    """
    correct = outcomes.count("correct")
    interval = stats.binomtest(correct, len(outcomes)).proportion_ci(CONFIDENCE, method="wilson")
    return Accuracy(
        correct=correct,
        wrong=outcomes.count("wrong"),
        no_answer=outcomes.count("no_answer"),
        low=float(interval.low),
        high=float(interval.high),
    )


def compare(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Paired:
    """Compare the models' outcomes with the exact McNemar test.

    Args:
        base: outcomes of the base model.
        tuned: outcomes of the tuned model for the same items in the same order.
    """
    pairs = [(b == "correct", t == "correct") for b, t in zip(base, tuned, strict=True)]
    improved, regressed = pairs.count((False, True)), pairs.count((True, False))
    discordant = improved + regressed
    p_value = float(stats.binomtest(improved, discordant).pvalue) if discordant else 1.0
    return Paired(improved=improved, regressed=regressed, p_value=p_value)
