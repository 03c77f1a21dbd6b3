from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuneloop.evaluation.scorers.text.places import without_reasoning
from tuneloop.traces.response_text import ParsedResponse, render_response, split_reasoning
from tuneloop.traces.schema import MAX_STEP_CHARACTERS
from tuneloop.training.thinking_text import (
    Thought,
    parse_chat_response,
    parse_numbered_response,
    render_chat_response,
    render_thinking,
    render_unclosed,
    split_thinking,
)

PIECES = [
    "\n",
    "\r\n",
    "\u2060",
    "<think>",
    "</think>",
    "<think>\n",
    "\n</think>\n\n",
    "<\u2060think>",
    "<\u2060/\u2060think>",
    "Answer: ",
    "Reasoning:\n1. ",
    "<end_of_turn>",
    "<|im_end|>",
    "مرحبا",
    "👩‍👩‍👧",
    "\ud83d",
    "\ufeff",
]
# With lone surrogates, which a model's bytes cannot spell but a caller's text can hold.
CONTENT = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(), max_size=8)),
    min_size=1,
    max_size=8,
).map("".join)
STEPS = st.lists(CONTENT, max_size=5)
ANSWER = CONTENT.filter(lambda text: bool(text.strip()))


def normal(steps: list[str], answer: str) -> ParsedResponse:
    """Return the documented normal form of short steps and an answer."""
    reasoning = "\n\n".join(steps).strip("\n")
    return ParsedResponse(
        (reasoning,) if reasoning.strip() else (), answer.lstrip("\n"), is_whole=True
    )


@given(STEPS, ANSWER)
@example(["a </think> b", "<think>"], "</think>")
@example([], "Use <think> and </think>.")
@example([], "<\u2060think>")
@example(["x\r\n"], "\r\ny\r\n")
@example(["word \n" * 3000], "long " * 4000)
def test_parsing_gives_back_steps_and_answer(steps: list[str], answer: str) -> None:
    text = render_chat_response(steps, answer)
    parsed = parse_chat_response(text)
    assert parsed == normal(steps, answer)
    # A second round changes nothing.
    again = render_chat_response(parsed.steps, parsed.answer or "")
    assert parse_chat_response(again) == parsed


@given(STEPS, ANSWER)
def test_what_a_scorer_sees_is_the_answer(steps: list[str], answer: str) -> None:
    text = render_chat_response(steps, answer)
    assert text == answer or text.startswith("<think>\n")
    assert "</think>" not in text.partition("</think>")[2]
    assert render_unclosed("\n\n".join(steps)).count("</think>") == 0


@given(st.lists(CONTENT.filter(bool), max_size=5), ANSWER)
def test_numbered_steps_are_read_out_of_a_thinking_block(steps: list[str], answer: str) -> None:
    steps = [step.rstrip("\n") or "x" for step in steps]
    response = render_response(steps, answer)
    assert parse_numbered_response(response) == ParsedResponse(tuple(steps), answer)
    block = render_thinking(*split_reasoning(response))
    assert parse_numbered_response(block) == ParsedResponse(tuple(steps), answer)


def test_long_reasoning_is_split_as_the_importer_splits_it() -> None:
    paragraph = "x" * 9000
    text = render_chat_response([paragraph] * 5, "42")
    parsed = parse_chat_response(text)
    assert parsed.answer == "42"
    assert [len(step) for step in parsed.steps] == [18002, 18002, 9000]
    assert max(map(len, parsed.steps)) <= MAX_STEP_CHARACTERS
    assert render_chat_response(parsed.steps, "42") == text


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("42", None, "42"),
        ("", None, None),
        (" \n", None, None),
        ("\n\n42\n", None, "42\n"),
        ("<think>\na\n</think>\n\n42", "a", "42"),
        ("<think>a</think>42", "a", "42"),
        (" \n<think>\r\na\r\n</think>\r\n\r\n42", "\r\na\r", "\r\n\r\n42"),
        ("<think>\n\n</think>\n\n42", "", "42"),
        ("<think></think>42", "", "42"),
        ("<think>\na\n\nb", "a\n\nb", None),
        ("<think>", "", None),
        ("<think>\na\n</think>\n\n", "a", None),
        ("a\n</think>\n\n42", "a", "42"),
        ("</think>42", "", "42"),
        ("<think>a</think>b</think>c", "a</think>b", "c"),
        ("<think>a</think>b\n<think>c", "a", "b\n"),
        ("Sure.\n<think>a", "a", "Sure.\n"),
        ("The tag <think> opens it", None, "The tag <think> opens it"),
        ("<THINK>a</THINK>", None, "<THINK>a</THINK>"),
    ],
)
def test_generated_text_is_split_at_its_marks(
    text: str, reasoning: str | None, answer: str | None
) -> None:
    assert split_thinking(text) == Thought(reasoning, answer)
    visible = without_reasoning(text).strip()
    assert visible == (answer or "").strip()  # the scorers' rule for all recipes agrees


def test_a_cut_block_has_steps_and_no_answer() -> None:
    assert parse_chat_response("<think>\na") == ParsedResponse(("a",), None)
    assert parse_chat_response("<think>\n ") == ParsedResponse((), None)
    assert parse_chat_response("") == ParsedResponse((), None)
