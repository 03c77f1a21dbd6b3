"""Choose training examples for the prompts of the base model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice

from tuneloop.errors import DataError
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.stages.answering.question import Shots
from tuneloop.training.schema import TrainingExample

SCANNED_EXAMPLES = 5000
"""Training examples, from the start of the export, among which those for prompts are chosen."""


def choose_shots(
    examples: Iterable[TrainingExample], items: Sequence[EvalItem], prompts: set[str], count: int
) -> dict[str, Shots]:
    """Choose examples for the base model's prompts: the first of each category in the export.

    Args:
        examples: training examples in the order of the export.
        items: items of the eval set.
        prompts: user texts of the items; examples with one of them are not used.
        count: examples per prompt.

    Returns:
        Category -> its examples. Categories without enough examples of their own, which the key
        `category` in a trace's meta names, get the first examples of the export.

    Raises:
        DataError: there are not enough examples.
    """
    asked = {_folded(prompt) for prompt in prompts}
    by_category: dict[str | None, list[tuple[str, str]]] = defaultdict(list)
    for example in islice(examples, SCANNED_EXAMPLES):
        if not example.is_pair or _folded(example.prompt) in asked:
            continue
        for key in {None, _category(example)}:
            if len(by_category[key]) < count:
                by_category[key].append((example.prompt, example.response))
    if len(by_category[None]) < count:
        raise DataError(
            f"eval.base_examples: is {count}, but the export has {len(by_category[None])} examples"
            " that are not in the eval set; lower it, or build a larger dataset"
        )
    found = {}
    for category in {item.category for item in items}:
        own = by_category.get(category, [])
        found[category] = tuple(own if len(own) == count else by_category[None])
    return found


def _category(example: TrainingExample) -> str | None:
    raw = example.metadata.get("category")
    value = None if raw is None else json.loads(bytes(raw))
    return value if isinstance(value, str) else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
