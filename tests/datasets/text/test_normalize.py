from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.datasets.text import normalize
from tuneloop.datasets.text.normalize import (
    letters_of_all,
    normalize_all,
    normalize_example,
    normalize_examples,
    normalize_text,
    normalize_words,
    words_of,
)

TEXTS = st.lists(
    st.one_of(
        st.text(alphabet=st.characters(max_codepoint=127, min_codepoint=1), max_size=12),
        st.text(alphabet=st.characters(exclude_characters="\0"), max_size=12),
        st.sampled_from([" ", "", "\n\n", "ÿ", "a  b"]),
    ),
    max_size=6,
)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_fast_way_for_ascii_gives_what_the_general_way_gives(text: str) -> None:
    general = normalize._general(text)
    assert normalize_text(text).decode() == " ".join(general.split())
    words = normalize._NOT_IN_WORDS.sub("", " ".join(general.split()))
    assert normalize_words(text).decode() == " ".join(words.split())


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    once = normalize_text(text).decode("utf-8", "surrogatepass")
    assert normalize_text(once).decode("utf-8", "surrogatepass") == once


@pytest.mark.parametrize(
    ("one", "other", "equal", "words"),
    [
        ("a b", " A\n\tB ", True, True),
        ("é", "e\u0301", True, True),
        ("ΜΆΪΟΣ", "μάϊος", True, True),
        ("straße", "STRASSE", True, True),
        ("a, b!", "a b", False, True),
        ("3 × 4", "3 4", False, True),
        ("a_b", "ab", False, True),
        ("零 一", "零一", False, False),
        ("-5", "5", False, True),
        ("a", "b", False, False),
    ],
)
def test_what_reads_the_same(one: str, other: str, equal: bool, words: bool) -> None:
    assert (normalize_text(one) == normalize_text(other)) is equal
    assert (normalize_words(one) == normalize_words(other)) is words


@given(st.lists(st.sampled_from(["a", "É", " ", "\n", "!", "_", "٣"])).map("".join))
def test_words_are_what_folding_leaves_of_words(text: str) -> Any:
    assert normalize_words(normalize_text(text).decode()) == normalize_words(text)


@given(TEXTS)
def test_many_at_once_are_what_each_is(texts: list[str]) -> None:
    normalized = [normalize_text(text) for text in texts]
    assert (normalize_all(texts) if texts else []) == normalized
    letters = [words_of(each).replace(b" ", b"") for each in normalized]
    assert (letters_of_all(normalized) if texts else []) == letters
    pairs = list(zip(texts, reversed(texts), strict=True))
    assert (normalize_examples(pairs) if pairs else []) == [
        normalize_example(*pair) for pair in pairs
    ]
