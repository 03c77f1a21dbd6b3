from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.evaluation.scorers.exact_match import normalise, score_exact_match
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem


def item(expected: str, *accepted: str, case_sensitive: bool = False) -> EvalItem:
    return EvalItem(
        id="x",
        prompt="?",
        expected_answer=expected,
        accepted_answers=accepted,
        category="c",
        difficulty="easy",
        case_sensitive=case_sensitive,
    )


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Paris", "paris"),
        ("  Paris \n", "paris"),
        ("Paris.", "paris"),
        ("“Paris”", "paris"),
        ("'Paris'.", "paris"),
        ("1,234", "1234"),
        ("12,345,678.5", "12345678.5"),
        ("1,23", "1,23"),  # This comma is not a thousands separator.
        ("[1,4,9,16,25]", "[1,4,9,16,25]"),
        ("ﬁve", "five"),  # NFKC
        ("１２", "12"),
        ("new\u00a0 york", "new york"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("3.14", "3.14"),  # A decimal point is not a full stop.
        ('"', '"'),
        ("", ""),
    ],
)
def test_normalise(written: str, normal: str) -> None:
    assert normalise(written) == normal


@given(st.text(max_size=30))
def test_an_answer_equals_itself_however_it_is_spaced(text: str) -> None:
    assert normalise(f"  {text}\n") == normalise(text)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("29", "correct"),
        ("$29", "correct"),
        ("29.", "correct"),
        ("30", "wrong"),
        ("29 or 30", "wrong"),
        ("", "wrong"),
        (None, "no_answer"),
    ],
)
def test_every_accepted_spelling_counts(answer: str | None, outcome: str) -> None:
    assert score_exact_match(item("29", "$29"), answer).outcome == outcome


def test_a_score_says_what_was_found_and_why() -> None:
    assert score_exact_match(item("Paris"), "PARIS.") == Score.correct("PARIS.", "paris")
    assert score_exact_match(item("Paris"), "Rome") == Score.wrong("Rome")


def test_case_matters_where_the_item_says_so() -> None:
    assert score_exact_match(item("M", case_sensitive=True), "m").outcome == "wrong"
    assert score_exact_match(item("M", case_sensitive=True), "M.").outcome == "correct"
    assert score_exact_match(item("M"), "m").outcome == "correct"
