"""Build the delta report from samples.

`build_report` is pure: equal samples and context give an equal report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import UNSET

from tuneloop.artifacts.evaluation.accuracy import BasePrompt, Group
from tuneloop.artifacts.evaluation.delta_report import (
    SCHEMA_VERSION,
    Context,
    DeltaReport,
    Guard,
    Item,
    LostItem,
    ReportModel,
)
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, EvalSet
from tuneloop.artifacts.evaluation.set_result import SetResult, StoppingResult
from tuneloop.errors import DataError
from tuneloop.evaluation.report import figures
from tuneloop.evaluation.report.answers import Answers, SetAnswers, by_set
from tuneloop.evaluation.report.texts import TUNED
from tuneloop.evaluation.report.verdict import judge, sentence, verdict_of
from tuneloop.evaluation.report.warned import find_warnings
from tuneloop.evaluation.statistics.intervals import share_interval
from tuneloop.evaluation.statistics.power import detectable_like
from tuneloop.evaluation.statistics.sequential import look


def build_report(samples: EvalSamples, context: Context) -> DeltaReport:
    """Compute the delta report.

    Args:
        samples: all answers with their scores. The first model is the base model, and models with
            its digest are the base model with other prompts. The tuned model is named `tuned`.
        context: what the stage knows in addition.

    Raises:
        DataError: the base model or the tuned model is missing, or was asked no set.
    """
    base = _check(samples)
    answers = {
        name: found
        for name, found in by_set(samples).items()
        if base in found.models and TUNED in found.models
    }
    judged = _judged(samples, answers)
    fair = _fairest(samples, answers, judged, base)
    totals = Counter(name for name, _ in samples.items)
    sets = tuple(
        _set_result(samples.sets[name], totals[name], found, fair if fair in found.models else base)
        for name, found in answers.items()
    )
    known = [each for each in sets if each.name in judged]
    pooled = _pooled([answers[each.name] for each in known], [each.base for each in known])
    verdict = judge(sets)
    prompts = _base_prompts(samples, answers, judged, base)
    report = DeltaReport(
        **{name: getattr(context, name) for name in Context.model_fields},
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        models=tuple(
            ReportModel(
                name=m.name,
                digest=m.digest,
                run=m.run,
                examples=m.examples,
                step=None if m.step is UNSET else m.step,
            )
            for m in samples.models.values()
        ),
        sets=sets,
        overall=figures.group("all", *pooled) if len(known) > 1 else known[0].overall,
        categories=_categories(known, answers),
        items=tuple(_items(sets, answers)),
        base_prompts=prompts if len(prompts) > 1 else (),
        base_examples=samples.models[fair].examples,
        guard=_guard(sets, answers),
    )
    return report.model_copy(
        update={"sentence": sentence(report), "warnings": find_warnings(report, samples)}
    )


def _check(samples: EvalSamples) -> str:
    """Return the name of the base model."""
    base = next(iter(samples.models), None)
    if base is None or base == TUNED or TUNED not in samples.models:
        raise DataError(
            f"samples: found the models {', '.join(samples.models) or 'none'}, expected the base"
            f" model first and one named {TUNED}; run the eval stage again"
        )
    asked = {(one.set, one.model) for one in samples.samples}
    if not any((name, base) in asked and (name, TUNED) in asked for name in samples.sets):
        raise DataError(
            f"samples: no set was answered by both {base} and {TUNED}; run the eval stage again"
        )
    return base


def _judged(samples: EvalSamples, answers: Mapping[str, SetAnswers]) -> list[str]:
    """Return the sets that `overall` puts together: the required ones, or the first one."""
    required = [name for name in answers if samples.sets[name].weight == "required"]
    return required or list(answers)[:1]


def _base_names(samples: EvalSamples, base: str) -> list[str]:
    digest = samples.models[base].digest
    return [
        name for name, each in samples.models.items() if each.digest == digest and name != TUNED
    ]


def _asked_all(
    answers: Mapping[str, SetAnswers], judged: Sequence[str], names: Sequence[str]
) -> list[str]:
    return [name for name in names if all(name in answers[each].models for each in judged)]


def _fairest(
    samples: EvalSamples, answers: Mapping[str, SetAnswers], judged: Sequence[str], base: str
) -> str:
    """Return the base model with the prompt with which it scores best.

    A base model may fail only because it does not know the format of the answers. A comparison
    with its better prompt does not count the format as a gain. Of two equal prompts, the one with
    fewer examples is chosen.
    """

    def rank(name: str) -> tuple[float, int]:
        credit = sum(float(answers[each].models[name].values.sum()) for each in judged)
        return credit, -samples.models[name].examples

    return max(_asked_all(answers, judged, _base_names(samples, base)), key=rank, default=base)


def _base_prompts(
    samples: EvalSamples, answers: Mapping[str, SetAnswers], judged: Sequence[str], base: str
) -> tuple[BasePrompt, ...]:
    found = []
    for name in _asked_all(answers, judged, _base_names(samples, base)):
        before, after = _pooled([answers[each] for each in judged], [name] * len(judged))
        found.append(
            BasePrompt(
                examples=samples.models[name].examples,
                base=figures.accuracy_of(before),
                paired=figures.paired(before, after),
            )
        )
    return tuple(sorted(found, key=lambda one: one.examples))


def _pooled(found: Sequence[SetAnswers], bases: Sequence[str]) -> tuple[Answers, Answers]:
    """Put the answers of several sets together, for the base and the tuned model."""
    before = [each.models[base] for each, base in zip(found, bases, strict=True)]
    after = [each.models[TUNED] for each in found]
    return _joined(before), _joined(after)


def _joined(parts: Sequence[Answers]) -> Answers:
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(int(each.groups.max()) + 1 for each in parts[:-1])])
    groups = [each.groups + offset for each, offset in zip(parts, offsets, strict=True)]
    samples = [one for each in parts for one in each.samples]
    joined = Answers(parts[0].model, samples, 1, np.concatenate(groups), parts=tuple(parts))
    # Sets may have different numbers of samples, so the scores are not those of `expected`.
    joined.__dict__["strict"] = [one for each in parts for one in each.strict]
    joined.__dict__["values"] = np.concatenate([each.values for each in parts])
    return joined


def _set_result(described: EvalSet, total: int, found: SetAnswers, base: str) -> SetResult:
    before, after = found.models[base], found.models[TUNED]
    overall = figures.group("all", before, after)
    stopping = _stopping(described, total, before, after)
    return SetResult(
        name=described.name,
        sha256=described.sha256,
        version=described.version,
        weight=described.weight,
        scorer=_scorer_name(described),
        samples=described.samples,
        items=len(found.items),
        verdict=verdict_of(overall),
        overall=overall,
        base=base,
        categories=figures.categories(found.items, before, after),
        models=tuple(map(figures.model_result, found.models.values())),
        comparisons=figures.comparisons(found, base, TUNED),
        detectable=None if stopping else detectable_like(after.values - before.values),
        stopping=stopping,
    )


def _stopping(
    described: EvalSet, total: int, before: Answers, after: Answers
) -> StoppingResult | None:
    """Return when the evaluation of a set stopped, if it could."""
    stopping, order = described.stopping, before.order
    if stopping is UNSET or order is None:
        return None
    ranks = order.ranks
    difference = (after.values - before.values)[ranks]
    found = look(difference, before.groups[ranks], stopping.error, largest=order.largest)
    return StoppingResult(
        total=total,
        not_asked=total - len(difference),
        decision=found.decision,
        decided_after=found.decided_after,
        candidate=stopping.candidate,
        error=stopping.error,
    )


def _scorer_name(described: EvalSet) -> str:
    found = described.scorer
    return found if isinstance(found, str) else str(found.get("kind"))


def _categories(known: Sequence[SetResult], answers: Mapping[str, SetAnswers]) -> tuple[Group, ...]:
    """Return the categories of the judged sets; of several sets, they are named with their set."""
    if len(known) == 1:
        return known[0].categories
    return tuple(
        each.model_copy(update={"name": f"{found.name}: {each.name}"})
        for found in known
        for each in found.categories
    )


def _items(sets: Sequence[SetResult], answers: Mapping[str, SetAnswers]) -> Iterator[Item]:
    for each in sets:
        found = answers[each.name]
        scores = found.models[each.base].strict, found.models[TUNED].strict
        for item, base, tuned in zip(found.items, *scores, strict=True):
            yield Item(
                id=item.id,
                set=each.name,
                category=item.category,
                base=figures.answer(base),
                tuned=figures.answer(tuned),
            )


def _guard(sets: Sequence[SetResult], answers: Mapping[str, SetAnswers]) -> Guard | None:
    """Return how much was kept of the first guarded set."""
    described = next((each for each in sets if each.weight == "guarded"), None)
    if described is None:
        return None
    found = answers[described.name]
    before, after = found.models[described.base], found.models[TUNED]
    right = [row for row, value in enumerate(before.values) if value == 1]
    lost = [row for row in right if after.values[row] < 1]
    low, high = share_interval(len(right) - len(lost), len(right))
    return Guard(
        name=described.name,
        scorer=described.scorer,
        base=described.overall.base,
        tuned=described.overall.tuned,
        kept=len(right) - len(lost),
        kept_low=low,
        kept_high=high,
        lost=tuple(
            LostItem(
                id=found.items[row].id,
                prompt=found.items[row].prompt,
                base_text=_text(before, row),
                tuned_text=_text(after, row),
            )
            for row in lost
        ),
    )


def _text(answers: Answers, row: int) -> str:
    return answers.samples[row][0].text if answers.samples[row] else ""
