"""The numbers of a report: accuracies with intervals, and paired differences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tuneloop.artifacts.evaluation.accuracy import Accuracy, Group, Paired
from tuneloop.artifacts.evaluation.delta_report import Answer
from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.artifacts.evaluation.set_result import Comparison, ModelResult
from tuneloop.evaluation.report.answers import Answers, SetAnswers, mean_values, states
from tuneloop.evaluation.statistics.anytime import RandomOrder, compare_anytime, mean_bounds
from tuneloop.evaluation.statistics.categories import compare_categories
from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.intervals import mean_interval
from tuneloop.evaluation.statistics.paired import Comparison as Compared
from tuneloop.evaluation.statistics.paired import compare_scores
from tuneloop.evaluation.statistics.repeats import pass_at_k
from tuneloop.evaluation.statistics.sequential import ALPHA

BINS = 20


def accuracy_of(answers: Answers, *, lenient: bool = False) -> Accuracy:
    """Count states and compute the 95 % interval of one model's accuracy."""
    judgements = answers.judgements(lenient=True) if lenient else answers.strict
    if not answers.parts or answers.parts[0].order is None:
        return accuracy(judgements, answers.groups, answers.order)
    bounds = [
        mean_bounds(each.values, each.groups, each.order, ALPHA / len(answers.parts))
        for each in answers.parts
        if each.order is not None
    ]
    return _accuracy(judgements, *_joint(answers.parts, bounds))


def accuracy(
    judgements: Sequence[Sequence[Judgement]], groups: Groups, order: RandomOrder | None = None
) -> Accuracy:
    """Count states and compute the 95 % interval of the accuracy.

    Args:
        judgements: for each item, at least one, its scores.
        groups: (items,), number of the item's group.
        order: order in which the items were asked, if the answers may have decided their number.
    """
    values = mean_values(judgements)
    if order is None:
        return _accuracy(judgements, *mean_interval(values, groups))
    return _accuracy(judgements, *mean_bounds(values, groups, order))


def _joint(parts: Sequence[Answers], bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Average the bounds of several sets, which hold together if each has its share of alpha."""
    weights = [len(each.values) for each in parts]
    low, high = np.average(np.array(bounds), axis=0, weights=weights)
    return float(low), float(high)


def _accuracy(judgements: Sequence[Sequence[Judgement]], low: float, high: float) -> Accuracy:
    found, values = states(judgements), mean_values(judgements)
    exact = len(values) == found.total() and float(values.sum()) == found["correct"]
    return Accuracy(
        correct=found["correct"],
        wrong=found["wrong"],
        no_answer=found["no_answer"],
        truncated=found["truncated"],
        error=found["error"],
        credit=None if exact else float(values.mean()),
        low=low,
        high=high,
    )


def paired(base: Answers, tuned: Answers) -> Paired:
    """Compare two models on the same items."""
    if base.parts and base.parts[0].order is not None:
        return _paired_sets(base, tuned)
    return _paired(compare(base, tuned), base.values, tuned.values)


def compare(base: Answers, tuned: Answers, alpha: float = ALPHA) -> Compared:
    """Compare two models on the items of one set, by the statistics that fit how it was asked."""
    if base.order is None:
        return compare_scores(base.values, tuned.values, base.groups)
    return compare_anytime(base.values, tuned.values, base.groups, base.order, alpha)


def _paired_sets(base: Answers, tuned: Answers) -> Paired:
    """Compare two models on several sets, each of which may have stopped early."""
    pairs = list(zip(base.parts, tuned.parts, strict=True))
    found = [compare(before, after, ALPHA / len(pairs)) for before, after in pairs]
    low, high = _joint(base.parts, [(each.low, each.high) for each in found])
    joint = replace(
        found[0],
        higher=sum(each.higher for each in found),
        lower=sum(each.lower for each in found),
        low=low,
        high=high,
        p_value=min(1.0, len(found) * min(each.p_value for each in found)),
    )
    return _paired(joint, base.values, tuned.values)


def _paired(compared: Compared, base: Floats, tuned: Floats) -> Paired:
    return Paired(
        improved=compared.higher,
        regressed=compared.lower,
        p_value=compared.p_value,
        gain_low=compared.low,
        gain_high=compared.high,
        both=int(((base == 1) & (tuned == 1)).sum()),
        neither=int(((base == tuned) & (tuned < 1)).sum()),
        anytime=compared.test == "betting",
    )


def group(name: str, base: Answers, tuned: Answers) -> Group:
    """Compare two models on all items."""
    return Group(
        name=name,
        base=accuracy_of(base),
        tuned=accuracy_of(tuned),
        paired=paired(base, tuned),
    )


def categories(items: Sequence[Item], base: Answers, tuned: Answers) -> tuple[Group, ...]:
    """Compare two models on each category, with p-values adjusted for their number."""
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        rows.setdefault(item.category, []).append(row)
    names = [item.category for item in items]
    found = []
    for each in compare_categories(base.values, tuned.values, base.groups, names, base.order):
        chosen = np.array(rows[each.name])
        groups = base.groups[chosen]
        order = None if base.order is None else base.order.take(chosen)
        found.append(
            Group(
                name=each.name,
                base=accuracy([base.strict[row] for row in chosen], groups, order),
                tuned=accuracy([tuned.strict[row] for row in chosen], groups, order),
                paired=_paired(each.comparison, base.values[chosen], tuned.values[chosen]),
                adjusted_p=each.p_value,
            )
        )
    return tuple(found)


def model_result(answers: Answers) -> ModelResult:
    """Summarise one model's answers to one set."""
    found = answers.flat()
    tokens = np.array([one.tokens for one in found], dtype=np.int64)
    width = max(1, math.ceil((int(tokens.max()) + 1) / BINS))
    bins = Counter((tokens // width).tolist())
    return ModelResult(
        model=answers.model,
        strict=accuracy_of(answers),
        lenient=accuracy_of(answers, lenient=True),
        hit_limit=sum(one.hit_limit for one in found),
        empty=sum(not one.text.strip() for one in found),
        missing=answers.missing,
        mean_tokens=float(tokens.mean()),
        max_tokens=int(tokens.max()),
        tokens=tuple((number * width, bins[number]) for number in range(max(bins) + 1)),
        pass_at=pass_at(answers),
    )


def pass_at(answers: Answers) -> dict[int, float]:
    """Estimate pass@k for k = 1, 2, 4, ... without bias; empty with one sample for each item."""
    if answers.expected == 1:
        return {}
    correct = np.array([sum(one.state == "correct" for one in own) for own in answers.strict])
    samples = np.array([len(own) for own in answers.strict])
    powers = (2**power for power in range(answers.expected.bit_length()))
    ks = sorted({*(k for k in powers if k <= answers.expected), answers.expected})
    return {k: float(pass_at_k(correct, samples, k).mean()) for k in ks}


def comparisons(answers: SetAnswers, base: str, tuned: str) -> tuple[Comparison, ...]:
    """Compare every other model with the tuned model."""
    after = answers.models[tuned]
    return tuple(
        Comparison(
            model=name,
            paired=paired(before, after),
            gain=float(after.values.mean() - before.values.mean()),
        )
        for name, before in answers.models.items()
        if name not in (base, tuned)
    )


def answer(judgements: Sequence[Judgement]) -> Answer:
    """Return the report's row of one item and model."""
    first = judgements[0]
    if len(judgements) == 1:
        exact = first.value == float(first.state == "correct")
        return Answer(
            outcome=first.state,
            answer=first.answer,
            matched=first.matched,
            value=None if exact else first.value,
        )
    return Answer(
        outcome=states([judgements]).most_common(1)[0][0],
        answer=first.answer,
        matched=first.matched,
        value=sum(one.value for one in judgements) / len(judgements),
    )
