"""Build the delta report from scored items.

`build_report` is pure: nothing in the report depends on when or where the evaluation ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.delta_report import Answer, DeltaReport, Group, Item
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.statistics import accuracy, compare

SIGNIFICANT = 0.05
"""p-value below which a difference is called one."""


@dataclass(frozen=True)
class ScoredItem:
    """One item with both models' texts and scores."""

    item: EvalItem
    base: Score
    tuned: Score
    base_text: str
    """Generated text, as is."""
    tuned_text: str


def build_report(scored: Sequence[ScoredItem], header: dict[str, str]) -> DeltaReport:
    """Count and compare.

    Args:
        scored: at least one item.
        header: what was evaluated; `scorer` names the scorer in the table of scorers.
    """
    overall = _group("all", scored)
    names = sorted({a.item.category for a in scored})
    categories = tuple(
        _group(name, [a for a in scored if a.item.category == name]) for name in names
    )
    return DeltaReport(
        header=header,
        verdict=_verdict(overall),
        overall=overall,
        categories=categories,
        items=tuple(map(_item, scored)),
    )


def _group(name: str, scored: Sequence[ScoredItem]) -> Group:
    base = [a.base.outcome for a in scored]
    tuned = [a.tuned.outcome for a in scored]
    return Group(name=name, base=accuracy(base), tuned=accuracy(tuned), paired=compare(base, tuned))


def _item(scored: ScoredItem) -> Item:
    return Item(
        id=scored.item.id,
        category=scored.item.category,
        base=_answer(scored.base),
        tuned=_answer(scored.tuned),
    )


def _answer(score: Score) -> Answer:
    return Answer(outcome=score.outcome, answer=score.answer, matched=score.matched)


def _verdict(group: Group) -> str:
    if group.paired.p_value >= SIGNIFICANT:
        return "no detectable difference"
    return "improved" if group.paired.improved > group.paired.regressed else "regressed"
