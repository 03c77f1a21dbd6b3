"""Terms: words with the operators and signs beside digits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.datasets.text.normalize import normalize_words
from tuneloop.datasets.text.terms import normalize_terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("13 + 4 =", "13 +4"),
        ("13+4=", "13 +4"),
        ("**13** + 4", "13 +4"),
        ("13 \u2212 4", "13 -4"),
        ("13 × -4.5", "13 *-4.5"),
        ("-13 + 4", "-13 +4"),
        ("- 13 + 4", "13 +4"),
        ("What's x^2, for x=3?", "whats x ^2 for x3"),
        ("13+-4", "13 +-4"),
        ("4--3", "4 --3"),
        ("1,234 apples", "1234 apples"),
        ("60% of well-known people", "60 %of wellknown people"),
        ("(1+2)*3", "1 +2 *3"),
        ("no digits + signs", "no digits signs"),
        ("١٣ + ٤", "١٣ +٤"),
        ("", ""),
        ("\x10\x114", "4"),
    ],
)
def test_operators_belong_to_the_term_after_them(text: str, terms: str) -> None:
    assert normalize_terms(text).decode() == terms


@given(st.text(alphabet=st.characters(exclude_characters="0123456789", categories=["L", "P", "Z"])))
def test_texts_without_digits_have_the_terms_of_their_words(text: str) -> None:
    assert normalize_terms(text) == normalize_words(text)


NUMBERS = st.lists(st.integers(0, 99), min_size=2, max_size=5)


@given(numbers=NUMBERS, data=st.data())
def test_spaces_around_operators_make_no_difference(
    numbers: list[int], data: st.DataObject
) -> None:
    operators = [data.draw(st.sampled_from("+-*/^<>%")) for _ in numbers[1:]]
    spaces = [data.draw(st.sampled_from(["", " ", "  "])) for _ in numbers[1:]]
    spelled = terms = str(numbers[0])
    for number, operator, space in zip(numbers[1:], operators, spaces, strict=True):
        spelled += f"{space}{operator}{space}{number}"
        terms += f" {operator}{number}"
    assert normalize_terms(spelled).decode() == terms
