from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuneloop.traces.response_text import (
    join_reasoning,
    parse_plain_response,
    render_response,
    split_reasoning,
)

CONTENT = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\n",
                "\u2060",
                "Answer:",
                "Answer: ",
                "Reasoning:\n",
                "1. ",
                "2. ",
                "3. ",
                "10. ",
                "0",
            ]
        ),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    min_size=1,
    max_size=8,
).map("".join)


@given(
    steps=st.lists(CONTENT.filter(bool), max_size=12),
    answer=CONTENT.filter(lambda text: bool(text.strip())),
)
@example(steps=["a\n2. b", "c\n\u20603. d"], answer="x\nAnswer: y\n\u2060Answer:")
@example(steps=[" ", "\n"], answer=" x\n")
def test_parsing_gives_back_steps_and_answer(steps: list[str], answer: str) -> None:
    parsed = parse_plain_response(render_response(steps, answer))
    assert (parsed.steps, parsed.answer) == (tuple(steps), answer)


def test_lines_that_read_as_none_of_the_form_are_left_alone() -> None:
    steps = ["first\n1. a list\n2 things", "then\n2. not next\nAnswer: not yet"]
    assert "\u2060" not in render_response(steps, "4\n3. in an answer")


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("", (), None),
        ("Answer:", (), None),
        ("Answer: 4", (), "4"),
        ("Answer:4\n", (), "4\n"),  # The text is kept as it is, because scorers strip white space.
        ("Answer: 3\nAnswer: 4", (), "4"),  # The last `Answer:` line counts.
        ("The Answer: 4", (), None),  # `Answer:` counts only at the start of a line.
        ("Reasoning:\n1. a\n2. b\nAnswer: c", ("a", "b"), "c"),
        ("Reasoning:\n1. a\nmore\n2. b\nAnswer: c", ("a\nmore", "b"), "c"),
        ("Reasoning:\n1. a\n3. b\nAnswer: c", ("a\n3. b",), "c"),  # 3 is not the next number.
        ("Reasoning:\n1. a\n2. b", ("a", "b"), None),
        # An empty step does not count as a step.
        ("Reasoning:\n1. \n2. b\nAnswer: c", ("b",), "c"),
        ("Reasoning:\n1. a\n\u20602. b\nAnswer: c", ("a\n2. b",), "c"),
        ("nonsense\nAnswer: x\ny", (), "x\ny"),  # An answer may have several lines.
    ],
)
def test_parsing_what_models_write(text: str, steps: tuple[str, ...], answer: str | None) -> None:
    parsed = parse_plain_response(text)
    assert (parsed.steps, parsed.answer) == (steps, answer)


@given(st.lists(CONTENT, max_size=12), CONTENT)
def test_steps_apart_from_the_answer_are_joined_again(steps: list[str], answer: str) -> None:
    response = render_response(steps, answer)
    reasoning, rest = split_reasoning(response)
    assert join_reasoning(reasoning, rest) == response
    assert rest == render_response([], answer)
    assert reasoning.startswith("1. ") if steps else reasoning == ""


@pytest.mark.parametrize("response", ["", "Hello", "Reasoning:\n1. a", "Answer: x", "a\nAnswer: x"])
def test_text_without_numbered_steps_before_an_answer_has_no_reasoning(response: str) -> None:
    assert split_reasoning(response) == ("", response)
    assert join_reasoning("", response) == response
