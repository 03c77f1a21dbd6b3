from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneloop.specs.model import TokenizerSpec
from tuneloop.training.renderers import render_training_text
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.encode import (
    encode_generation_prompt,
    encode_response,
    tokenizer_sentences,
)
from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer
from tuneloop.training.text.trainer import BOS_ID, train_tokenizer

EXAMPLES = [
    TrainingExample(id=f"e{number}", prompt=f"Question {number}", response="Answer: ok")
    for number in range(20)
]


@given(
    prompt=st.text(min_size=1, max_size=40),
    response=st.text(min_size=1, max_size=40),
    system=st.none() | st.text(max_size=10),
)
def test_generation_starts_from_a_token_prefix_for_any_text(
    prompt: str, response: str, system: str | None
) -> None:
    tokenizer = load_tokenizer(_model())
    start = encode_generation_prompt(tokenizer, prompt, system)
    ids = start + encode_response(tokenizer, response)
    assert ids == [BOS_ID, *tokenizer.encode(render_training_text(prompt, response, system))]
    assert ids.count(BOS_ID) == 1
    turn_marks = [tokenizer.piece_to_id(m) for m in ("<start_of_turn>", "<end_of_turn>")]
    assert [i for i in ids if i in turn_marks] == turn_marks * 2


_MODEL: list[bytes] = []


def _model() -> bytes:
    """Train the tokenizer once, because hypothesis does not support module fixtures well."""
    if not _MODEL:
        sentences = tokenizer_sentences(EXAMPLES, None)
        _MODEL.append(train_tokenizer(sentences, TokenizerSpec(vocab_size=300)))
    return _MODEL[0]
