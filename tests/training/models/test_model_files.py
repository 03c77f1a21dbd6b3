from __future__ import annotations

import hashlib

import pytest

from tuneloop.errors import DataError
from tuneloop.specs.model import TokenizerSpec
from tuneloop.training.models import model_files
from tuneloop.training.text.trainer import train_tokenizer


def test_a_stored_model_comes_back_bit_by_bit(stored: dict[str, bytes]) -> None:
    model = model_files.load_model(stored, model_files.TUNED_WEIGHTS, "run")
    assert model_files.dump_weights(model.model) == stored[model_files.TUNED_WEIGHTS]
    assert model.digest == hashlib.sha256(stored[model_files.TUNED_WEIGHTS]).hexdigest()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (model_files.DESCRIPTION, b"{}", "run/model.json: family is missing"),
        (model_files.BASE_WEIGHTS, b"torn", "run/base.safetensors: not safetensors"),
        (model_files.TOKENIZER, b"torn", "expected a SentencePiece model"),
    ],
)
def test_broken_files_are_named(
    name: str, data: bytes, message: str, stored: dict[str, bytes]
) -> None:
    with pytest.raises(DataError, match=message):
        model_files.load_model({**stored, name: data}, model_files.BASE_WEIGHTS, "run")


def test_a_tokenizer_of_another_model_is_refused(stored: dict[str, bytes]) -> None:
    other = train_tokenizer(["some quite different text " * 40], TokenizerSpec(vocab_size=400))
    with pytest.raises(DataError, match="pieces, expected the model's"):
        model_files.load_model(
            {**stored, model_files.TOKENIZER: other}, model_files.BASE_WEIGHTS, "run"
        )
