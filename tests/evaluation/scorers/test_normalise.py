from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.evaluation.scorers.text.normalise import normalise


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
