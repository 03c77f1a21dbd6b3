"""The delta report: what the tuned model gained and lost against its base, item by item.

One rule: `build_report` is a pure function of the scored items; Markdown and JSON show the same
numbers, and nothing in them depends on when or where the evaluation ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.delta_report import Accuracy, Paired
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.statistics import accuracy, compare

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Answered:
    """One item and what both models made of it."""

    item: EvalItem
    base: Score
    tuned: Score
    base_text: str
    """Generated text, as is."""
    tuned_text: str


@dataclass(frozen=True)
class Row:
    """Accuracies of one group of items."""

    name: str
    base: Accuracy
    tuned: Accuracy
    paired: Paired


@dataclass(frozen=True)
class DeltaReport:
    """All that the report says."""

    header: dict[str, str]
    """What was evaluated: names to values, in order."""
    overall: Row
    categories: tuple[Row, ...]
    verdict: str
    """improved, regressed, or no detectable difference."""
    answered: tuple[Answered, ...]

    @property
    def regressions(self) -> list[Answered]:
        """Items that the base had right and the tuned model has not."""
        return [a for a in self.answered if _is(a.base) and not _is(a.tuned)]

    @property
    def still_wrong(self) -> list[Answered]:
        """Items that neither has right."""
        return [a for a in self.answered if not _is(a.base) and not _is(a.tuned)]


def _is(score: Score) -> bool:
    return score.outcome == "correct"


def build_report(answered: Sequence[Answered], header: dict[str, str]) -> DeltaReport:
    """Count and compare; at least one item."""
    overall = _row("all", answered)
    names = sorted({a.item.category for a in answered})
    categories = tuple(
        _row(name, [a for a in answered if a.item.category == name]) for name in names
    )
    return DeltaReport(header, overall, categories, _verdict(overall), tuple(answered))


def _row(name: str, answered: Sequence[Answered]) -> Row:
    base = [a.base.outcome for a in answered]
    tuned = [a.tuned.outcome for a in answered]
    return Row(name, accuracy(base), accuracy(tuned), compare(base, tuned))


def _verdict(row: Row) -> str:
    if row.paired.p_value >= SIGNIFICANT:
        return "no detectable difference"
    return "improved" if row.paired.improved > row.paired.regressed else "regressed"
