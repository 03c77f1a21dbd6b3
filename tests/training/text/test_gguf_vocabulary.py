from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests.training.text.models import CHATML, CHATML_TOKENS, byte_tokenizer
from tuneloop.errors import DataError
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.gguf_vocabulary import SPLITS, vocabulary_files
from tuneloop.training.text.tokenizers import load_tokenizer_files
from tuneloop.training.text.trainer import train_tokenizer

MERGES = [("1", "2"), ("12", "3"), ("Ċ", "Ċ"), ("e", "Ì"), ("eÌ", "ģ"), ("a", "b")]
TEXTS = ["12345 ab\n\n x", "<|im_start|>user\né e\u0301 🎉<|im_end|>", "", "ما\r\n\t"]


def byte_fields(**changes: Any) -> dict[str, Any]:
    """Return the fields that llama.cpp's converter writes for the small byte-level tokenizer."""
    tokenizer = json.loads(byte_tokenizer(merges=MERGES))
    ids = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted({**ids, **added}, key={**ids, **added}.__getitem__)
    return {
        "general.architecture": "llama",
        "llama.context_length": 8192,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*tokens, "[PAD267]"],
        "tokenizer.ggml.token_type": [*(3 if token in added else 1 for token in tokens), 5],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": added["<|im_start|>"],
        "tokenizer.ggml.eos_token_id": added["<|im_end|>"],
        "tokenizer.ggml.padding_token_id": added["<|im_end|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def test_a_byte_level_vocabulary_becomes_a_chat_format() -> None:
    files = vocabulary_files(byte_fields(), "m.gguf")
    assert sorted(files) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads(files["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["model_max_length"], config["chat_template"]) == (8192, CHATML)
    chat = load_chat_format(files, place="m")
    assert set(chat.tokenizer.added_tokens) == set(CHATML_TOKENS)
    assert chat.tokenizer.vocab_size == 267
    for text in TEXTS:
        assert chat.tokenizer.decode(chat.tokenizer.encode(text)) == text
    assert chat.stop_ids == (chat.tokenizer.token_id("<|im_end|>"),)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["1", "2", "3"]),
        ("gpt-2", ["123"]),
        ("qwen2", ["1", "2", "3"]),
        ("llama-bpe", ["123"]),
    ],
)
def test_digits_are_split_as_the_model_expects(pre: str, pieces: list[str]) -> None:
    tokenizer = load_tokenizer_files(vocabulary_files(byte_fields(pre=pre), "m.gguf"), "m")
    assert [tokenizer.decode([each]) for each in tokenizer.encode("123")] == pieces


def test_qwen_normalises_and_the_others_do_not() -> None:
    for pre in SPLITS:
        tokenizer = load_tokenizer_files(vocabulary_files(byte_fields(pre=pre), "m.gguf"), "m")
        nfc = pre in ("qwen2", "deepseek-r1-qwen")
        assert tokenizer.decode(tokenizer.encode("e\u0301")) == ("é" if nfc else "e\u0301")


def test_the_begin_of_text_is_added_for_others_and_never_by_us() -> None:
    files = vocabulary_files(byte_fields(add_bos_token=True), "m.gguf")
    assert json.loads(files["tokenizer.json"])["post_processor"]["type"] == "TemplateProcessing"
    assert load_tokenizer_files(files, "m").encode("") == []


def sentencepiece_fields(model: bytes, **changes: Any) -> dict[str, Any]:
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    user_defined = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    return {
        "general.architecture": "gemma3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            piece.piece.replace("\u2581", " ") if piece.type == user_defined else piece.piece
            for piece in proto.pieces
        ],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in proto.pieces],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def test_a_sentencepiece_vocabulary_comes_back_exactly() -> None:
    model = train_tokenizer(
        ["user", "model", "Some words, 12 numbers", "other words"] * 9, TokenizerSpec()
    )
    files = vocabulary_files(sentencepiece_fields(model), "m.gguf")
    assert sorted(files) == ["tokenizer.model", "tokenizer_config.json"]
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "GemmaTokenizer"
    here = sentencepiece.SentencePieceProcessor(model_proto=files["tokenizer.model"])
    there = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in [*TEXTS, "  Some  words 1234\n<start_of_turn>user\n漢字"]:
        assert here.encode(text) == there.encode(text)
        assert here.decode(here.encode(text)) == there.decode(there.encode(text))
    assert load_chat_format(files, place="m").stop_ids == (5, 1)


def test_a_space_before_every_text_is_not_supported() -> None:
    model = train_tokenizer(["a"], TokenizerSpec())
    files = vocabulary_files(sentencepiece_fields(model, add_space_prefix=True), "m.gguf")
    with pytest.raises(DataError, match="puts a space before every text"):
        load_tokenizer_files(files, "m")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (lambda: byte_fields(model="bert"), "tokenizer.ggml.model is bert, expected gpt2"),
        (lambda: byte_fields(pre="dbrx"), "tokenizer.ggml.pre is dbrx, expected one of"),
        (lambda: byte_fields(tokens=[]), "found 0 tokens and 268 token types"),
        (lambda: byte_fields(merges=["a zzz"]), "the merge 'a zzz' joins tokens that are not"),
        (lambda: byte_fields(eos_token_id=999), "eos_token_id is 999, expected an id"),
        (lambda: byte_fields(model="llama"), "268 tokens and 0 scores"),
    ],
)
def test_vocabularies_that_cannot_be_used_are_one_sentence(
    fields: Callable[[], dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message) as e:
        vocabulary_files(fields(), "m.gguf")
    assert str(e.value).startswith("m.gguf: ")
