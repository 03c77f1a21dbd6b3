"""The texts of a report's items, which the report itself does not hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.delta_report import DeltaReport, Item
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Sample
from tuneloop.artifacts.evaluation.eval_samples import Item as Question

TUNED = "tuned"
SHORT_DIGEST = 12


@dataclass(frozen=True)
class ItemTexts:
    """One item of a report with the question and all answers."""

    item: Item
    question: Question
    base: Sequence[Sample]
    """Answers of the base model that the report compares with; empty if they are missing."""
    tuned: Sequence[Sample]
    others: Sequence[tuple[str, Sequence[Sample]]]
    """Answers of the other models, by name."""

    @property
    def outcome(self) -> str:
        """`regressed`, `improved`, `still wrong` or `both right`."""
        if self.item.has_regressed:
            return "regressed"
        if self.item.has_improved:
            return "improved"
        return "still wrong" if self.item.is_still_wrong else "both right"


OUTCOMES = ("regressed", "improved", "still wrong", "both right")
"""Outcomes in the order of the report."""


def items_with_texts(report: DeltaReport, samples: EvalSamples) -> list[ItemTexts]:
    """Return all items with their texts, in the order of the report."""
    bases = {each.name: each.base for each in report.sets}
    answers: dict[tuple[str, str], dict[str, list[Sample]]] = {}
    for one in samples.samples:
        answers.setdefault((one.set, one.item), {}).setdefault(one.model, []).append(one)
    found = []
    for item in report.items:
        own = answers.get((item.set, item.id), {})
        for each in own.values():
            each.sort(key=lambda one: one.sample)
        base = bases[item.set]
        found.append(
            ItemTexts(
                item,
                samples.items[item.set, item.id],
                own.get(base, ()),
                own.get(TUNED, ()),
                [
                    (name, own[name])
                    for name in samples.models
                    if name in own and name not in (base, TUNED)
                ],
            )
        )
    return found


def texts_before(question: Question) -> list[tuple[str, str]]:
    """Return what is asked before the prompt as (who, text): system, earlier turns and tools."""
    context = question.context
    if context is None:
        return []
    found = [] if context.system is None else [("system", context.system)]
    for message in context.messages:
        parts = (message.get("reasoning"), message["content"])
        calls = (f"{each['name']}({each['arguments']})" for each in message.get("tool_calls", ()))
        found.append((message["role"], "\n\n".join(text for text in (*parts, *calls) if text)))
    if context.tools:
        tools = (json.dumps(each, ensure_ascii=False, indent=1) for each in context.tools)
        found.append(("tools", "\n".join(tools)))
    return found


def short(digest: str) -> str:
    """Return the first characters of a digest."""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST]
