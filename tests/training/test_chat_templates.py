from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import SpecError
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.training.chat_templates import CHAT_TEMPLATES, chat_template_named
from tuneloop.training.renderers import CONTROL_TOKENS
from tuneloop.training.text.sentencepiece_tokenizer import SentencePieceTokenizer
from tuneloop.training.text.trainer import train_tokenizer

MARKS = sorted({mark for row in CHAT_TEMPLATES.values() for mark in row.turn_marks})
NASTY = st.lists(
    st.one_of(
        st.sampled_from(
            [*CONTROL_TOKENS, *MARKS, "<", ">", "|", "\u2060", "turn|>", "<|turn", "\n"]
        ),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    max_size=12,
).map("".join)
TEMPLATE = st.sampled_from(sorted(CHAT_TEMPLATES))
TOKENIZER = SentencePieceTokenizer(
    train_tokenizer(["user model system", "Reasoning: 1. a", "Answer: b"], TokenizerSpec())
)


def test_gemma_4_has_the_exact_text_that_others_expect() -> None:
    text = CHAT_TEMPLATES["gemma4"].render_training_text("Hi", "Hello", "Be brief")
    assert text == (
        "<|turn>system\nBe brief<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\nHello<turn|>"
    )
    assert CHAT_TEMPLATES["gemma3"].render_training_text("Hi", "Hello", "Be brief") == (
        "<start_of_turn>user\nBe brief\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>"
    )


@given(name=TEMPLATE, prompt=NASTY, response=NASTY, system=st.none() | NASTY)
def test_no_content_changes_the_number_of_turns(
    name: str, prompt: str, response: str, system: str | None
) -> None:
    template = CHAT_TEMPLATES[name]
    text = template.render_training_text(prompt, response, system)
    assert template.roles_in(text) == template.turns(system)
    for mark in {*CONTROL_TOKENS, *template.turn_marks}:
        assert text.count(mark) == (
            len(template.turns(system)) if mark in template.turn_marks else 0
        )


@given(name=TEMPLATE, prompt=NASTY, response=NASTY, system=st.none() | NASTY)
def test_generation_starts_from_a_byte_and_token_prefix_of_training(
    name: str, prompt: str, response: str, system: str | None
) -> None:
    template = CHAT_TEMPLATES[name]
    text = template.render_training_text(prompt, response, system)
    assert text.startswith(template.render_generation_prompt(prompt, system))
    before = TOKENIZER.encode(template.render_generation_prompt(prompt, system))
    after = TOKENIZER.encode(template.render_closed_response(response))
    assert TOKENIZER.encode(text) == [*before, *after]


@pytest.mark.parametrize(
    "text",
    [
        "<|turn>user\nHi",
        "<|turn>user\nHi<turn|>x<|turn>model\nHo<turn|>",
        "<|turn>user\nHi<turn|><turn|>",
        "<|turn>user\n<|turn>model\nHo<turn|>",
    ],
)
def test_turns_that_are_not_closed_or_have_text_between_them(text: str) -> None:
    assert CHAT_TEMPLATES["gemma4"].roles_in(text) is None


def test_an_unknown_template_lists_the_known() -> None:
    with pytest.raises(SpecError, match="'llama' is unknown, expected one of: gemma2, gemma3, gem"):
        chat_template_named("llama")
