"""Which examples the base model is shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tuneloop.errors import DataError
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.stages.evaluation.shots import choose_shots
from tuneloop.training.schema import TrainingExample


def example(number: int, category: Any = None) -> TrainingExample:
    metadata = {} if category is None else {"category": msgspec.Raw(msgspec.json.encode(category))}
    return TrainingExample(
        id=str(number), prompt=f"p {number}", response=f"r {number}", metadata=metadata
    )


def items_of(*categories: str) -> list[EvalItem]:
    return [
        EvalItem(
            id=str(number),
            prompt=f"? {number}",
            expected_answer="x",
            category=category,
            difficulty="easy",
        )
        for number, category in enumerate(categories)
    ]


EXAMPLES = [example(0), *(example(n, ("sums", "words", 3)[n % 3]) for n in range(1, 9))]


def test_examples_are_the_first_of_the_items_category() -> None:
    found = choose_shots(EXAMPLES, items_of("sums", "words", "sums"), set(), 2)
    assert found == {
        "sums": (("p 3", "r 3"), ("p 6", "r 6")),
        "words": (("p 1", "r 1"), ("p 4", "r 4")),
    }


def test_a_category_with_too_few_examples_gets_the_first_of_the_export() -> None:
    found = choose_shots(EXAMPLES, items_of("sums", "rhymes"), set(), 3)
    first = (("p 0", "r 0"), ("p 1", "r 1"), ("p 2", "r 2"))
    assert found == {"sums": first, "rhymes": first}


def test_a_question_of_the_eval_set_is_never_an_example() -> None:
    found = choose_shots(EXAMPLES, items_of("sums"), {"P  3"}, 1)
    assert found == {"sums": (("p 6", "r 6"),)}
    with pytest.raises(DataError, match=r"eval\.base_examples: is 9, but the export has 8"):
        choose_shots(EXAMPLES, items_of("sums"), {"p 3"}, 9)
