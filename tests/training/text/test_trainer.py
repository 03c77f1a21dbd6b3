from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from tuneloop.errors import DataError
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.training.text.sentencepiece_tokenizer import SentencePieceTokenizer
from tuneloop.training.text.trainer import CONTROL_SYMBOLS, SPECIAL_PIECES, train_tokenizer

SPEC = TokenizerSpec(vocab_size=320)
TEXTS = {
    "one letter": ["a"],
    "digits": ["12 + 34 = 46"] * 5,
    "newlines": ["a\nb\n\nc\r\nd"],
    "right to left": ["ما هي عاصمة فرنسا؟", "תחשוב על זה"],
    "emoji": ["🗼👩‍👩‍👧🏳️‍🌈 ok"],
    "20,000 characters": ["step " * 4000],
    "no space in 20,000": ["x" * 20_000],
    "NUL and controls": ["a\0b\x01\x1f\x7fc"],
    "reserved piece": ["a\u2585b \u2581c"],
    "lone surrogate": ["a\ud800b"],
    "huge alphabet": ["".join(chr(0x4E00 + n) for n in range(5000))],
    "control tokens": ["<start_of_turn>user <unused0> <pad>", "<end_of_turn>"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_trains_and_round_trips(name: str) -> None:
    tokenizer = SentencePieceTokenizer.load(train_tokenizer(TEXTS[name], SPEC), "tokenizer.model")
    assert tokenizer.vocab_size % 64 == 0
    assert [tokenizer.token_id(piece) for piece in SPECIAL_PIECES.values()] == [0, 1, 2, 3]
    assert set(CONTROL_SYMBOLS) <= set(tokenizer.added_tokens)
    for text in TEXTS[name]:
        text = text.replace("\ud800", "?").replace("\u2581", " ").replace("\0", "")
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_the_same_in_another_process() -> None:
    sentences = [f"Question {n}: wörds, 零 and {n * n}" for n in range(200)]
    here = hashlib.sha256(train_tokenizer(sentences, SPEC)).hexdigest()
    code = (
        "import hashlib;"
        "from tuneloop.specs.training.model import TokenizerSpec;"
        "from tuneloop.training.text.trainer import train_tokenizer;"
        "s = [f'Question {n}: wörds, 零 and {n * n}' for n in range(200)];"
        "m = train_tokenizer(s, TokenizerSpec(vocab_size=320));"
        "print(hashlib.sha256(m).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here
    assert done.stderr == ""


@pytest.mark.parametrize("sentences", [[], [""], ["\n", "\0"]])
def test_no_text_is_an_error(sentences: list[str]) -> None:
    with pytest.raises(DataError, match="the sentences contain no text"):
        train_tokenizer(sentences, SPEC)
