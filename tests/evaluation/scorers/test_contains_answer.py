from __future__ import annotations

import pytest

from tests.evaluation.scorers.test_exact_match import item
from tuneloop.evaluation.scorers.contains_answer import score_contains_answer


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("Paris", "The capital of France is Paris."),
        ("Paris", "PARIS"),
        ("Paris", "It is “Paris”, of course"),
        ("5", "2 + 3 = 5"),
        ("5", "The answer is 5."),
        ("1234", "There are 1,234 of them"),
        ("Isaac Newton", "It was\nIsaac  Newton, in 1687"),
        ("C++", "Use C++ here"),
        ("-5", "It is -5 degrees"),
    ],
)
def test_an_answer_may_stand_anywhere_in_the_text(expected: str, text: str) -> None:
    score = score_contains_answer(item(expected), text)
    assert (score.outcome, score.answer) == ("correct", text)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("5", "15"),
        ("5", "3.5"),
        ("5", "5.2"),
        ("5", "-5"),
        ("5", "x5"),
        ("Paris", "Parisian"),
        ("cat", "concatenate"),
    ],
)
def test_a_part_of_a_word_or_number_is_not_the_answer(expected: str, text: str) -> None:
    assert score_contains_answer(item(expected), text).outcome == "wrong"


def test_other_spellings_case_and_blank_texts() -> None:
    accepted = item("9", "nine")
    assert score_contains_answer(accepted, "There are nine planets").matched == "nine"
    assert score_contains_answer(item("m", case_sensitive=True), "M").outcome == "wrong"
    assert score_contains_answer(accepted, " \n").outcome == "no_answer"
    assert score_contains_answer(accepted, None).outcome == "no_answer"
