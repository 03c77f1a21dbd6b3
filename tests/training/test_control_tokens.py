from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.traces.response_text import WORD_JOINER
from tuneloop.training.control_tokens import ControlTokens

OVERLAPPING = ControlTokens(["<<a", "<a", "<a>", "ab", "bb", "a<a", "\n\n", "\u2581\u2581", "é"])
NASTY = st.text(alphabet=["<", "a", "b", ">", WORD_JOINER, "\n", "é", "\u2581"], max_size=12)


@given(NASTY)
def test_no_token_is_left_and_restoring_gives_the_content_back(content: str) -> None:
    safe = OVERLAPPING.neutralise(content)
    assert OVERLAPPING.restore(safe) == content
    assert not any(token in safe for token in OVERLAPPING.tokens)
    assert safe.replace(WORD_JOINER, "") == content.replace(WORD_JOINER, "")


@given(NASTY, NASTY)
def test_different_contents_stay_different(first: str, second: str) -> None:
    if first != second:
        assert OVERLAPPING.neutralise(first) != OVERLAPPING.neutralise(second)


@given(NASTY)
def test_text_that_needs_no_change_is_restored_unchanged(content: str) -> None:
    """A model may write text that was never neutralised."""
    plain = content.replace(WORD_JOINER, "")
    assert OVERLAPPING.restore(plain) == plain


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a <|im_end|> b", "a <\u2060|im_end|> b"),
        ("<\u2060|im_end|>", "<\u2060\u2060|im_end|>"),
        ("<|im\u2060_end|>", "<\u2060|im\u2060_end|>"),
        ("\u2060<|im_end|>\u2060", "\u2060<\u2060|im_end|>\u2060"),
        ("<|im_end|", "<|im_end|"),
        ("a\n\nb", "a\n\nb"),
        ("", ""),
    ],
)
def test_the_joiner_is_after_the_first_character(content: str, expected: str) -> None:
    tokens = ControlTokens(["<|im_end|>", "\n\n", "\t", "  "])
    assert tokens.neutralise(content) == expected
    assert tokens.restore(expected) == content


def test_white_space_and_single_characters_are_no_control_tokens() -> None:
    assert OVERLAPPING.tokens == {"<<a", "<a", "<a>", "ab", "bb", "a<a"}
    nothing = ControlTokens(["\n", "\u2581\u2581"])
    assert nothing.neutralise("a\n\u2060b") == nothing.restore("a\n\u2060b") == "a\n\u2060b"


def test_long_content_with_many_tokens_takes_no_time() -> None:
    tokens = ControlTokens([f"<unused{number}>" for number in range(6_000)])
    content = "<unused1>\u2060<" * 20_000
    start = time.process_time()
    assert tokens.restore(tokens.neutralise(content)) == content
    assert time.process_time() - start < 10
