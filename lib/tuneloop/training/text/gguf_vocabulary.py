"""Turn the vocabulary of a GGUF file into the tokenizer files of a model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tuneloop import jsonl
from tuneloop.errors import DataError
from tuneloop.training.text.jinja_template import TEMPLATE_FILE
from tuneloop.training.text.tokenizers import TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Token types of GGUF, which are those of SentencePiece."""
SPACE_MARK = "\u2581"

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""Key in tokenizer_config.json -> key of the id below `tokenizer.ggml.`"""


@dataclass(frozen=True)
class _Split:
    """How a byte-level tokenizer splits text before it merges bytes."""

    parts: Callable[[], list[pre_tokenizers.PreTokenizer]]
    nfc: bool = False
    """Whether text is normalised to NFC first."""
    ignore_merges: bool = False
    """Whether a word that is a token needs no merges."""


def _by_regex(digits: str) -> list[pre_tokenizers.PreTokenizer]:
    pattern = tokenizers.Regex(_WORDS + digits + _REST)
    return [
        pre_tokenizers.Split(pattern, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _gpt2() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.ByteLevel(add_prefix_space=False)]


def _digits_then_gpt2() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Digits(individual_digits=True), *_gpt2()]


_QWEN2 = _Split(lambda: _by_regex(r"\p{N}"), nfc=True)
_LLAMA3 = _Split(lambda: _by_regex(r"\p{N}{1,3}"), ignore_merges=True)
SPLITS = {
    "gpt-2": _Split(_gpt2),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "smollm": _Split(_digits_then_gpt2),
}
"""Value of `tokenizer.ggml.pre` -> split; the names are those of llama.cpp."""


def vocabulary_files(fields: Mapping[str, Any], place: str) -> dict[str, bytes]:
    """Convert the vocabulary of a GGUF file.

    Args:
        fields: values of the file's fields by name, such as `tokenizer.ggml.tokens`.
        place: the file, for error messages.

    Returns:
        Contents by name: tokenizer.json or tokenizer.model, tokenizer_config.json, and
        chat_template.jinja if the file has a chat template.

    Raises:
        DataError: the vocabulary is incomplete, or of a kind that is not supported.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        files = {TOKENIZER_JSON: _byte_level(fields, place)}
    elif kind == "llama":
        files = {TOKENIZER_MODEL: _sentencepiece(fields, place)}
    else:
        raise DataError(
            f"{place}: tokenizer.ggml.model is {kind}, expected gpt2 (byte-level BPE) or llama"
            " (SentencePiece); add the model from its Hugging Face folder"
        )
    files[TOKENIZER_CONFIG] = jsonl.dump_line(_config(fields, place))
    template = fields.get("tokenizer.chat_template")
    if template:
        files[TEMPLATE_FILE] = template.encode("utf-8")
    return files


def _tokens(fields: Mapping[str, Any], place: str) -> tuple[list[str], list[int]]:
    tokens = fields.get("tokenizer.ggml.tokens") or []
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise DataError(
            f"{place}: found {len(tokens)} tokens and {len(types)} token types, expected as many of"
            " each and at least one; get the file again"
        )
    return tokens, types


def _byte_level(fields: Mapping[str, Any], place: str) -> bytes:
    """Build tokenizer.json of a byte-level BPE vocabulary."""
    split = SPLITS.get(fields.get("tokenizer.ggml.pre", ""))
    if split is None:
        raise DataError(
            f"{place}: tokenizer.ggml.pre is {fields.get('tokenizer.ggml.pre')}, expected one of"
            f" {', '.join(sorted(SPLITS))}; add the model from its Hugging Face folder"
        )
    tokens, types = _tokens(fields, place)
    added = {CONTROL: True, USER_DEFINED: False}
    # Unused tokens only fill the rows of the embedding.
    vocab = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != UNUSED
    }
    merges = [_merge(line, vocab, place) for line in fields.get("tokenizer.ggml.merges") or []]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, ignore_merges=split.ignore_merges)
    )
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split.parts())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=added[kind])
            for token, kind in zip(tokens, types, strict=True)
            if kind in added
        ]
    )
    if fields.get("tokenizer.ggml.add_bos_token"):
        bos = _named(fields, "bos_token_id", place)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocab[bos])]
        )
    data: str = tokenizer.to_str()
    return data.encode("utf-8")


def _merge(line: str, vocab: Mapping[str, int], place: str) -> tuple[str, str]:
    first, _, second = line.partition(" ")
    if first not in vocab or second not in vocab or first + second not in vocab:
        raise DataError(
            f"{place}: the merge {line!r} joins tokens that are not in the vocabulary, expected two"
            " tokens whose joined text is a token; get the file again"
        )
    return first, second


def _sentencepiece(fields: Mapping[str, Any], place: str) -> bytes:
    """Build tokenizer.model of a SentencePiece vocabulary; GGUF keeps pieces, scores and types."""
    tokens, types = _tokens(fields, place)
    scores = fields.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise DataError(
            f"{place}: found {len(tokens)} tokens and {len(scores)} scores, expected as many of"
            " each; get the file again"
        )
    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        # llama.cpp writes user-defined pieces with spaces.
        model.pieces.add(piece=token.replace(" ", SPACE_MARK), score=score, type=kind)
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = "<0x00>" in tokens
    for name, key in (("bos_id", "bos_token_id"), ("eos_id", "eos_token_id")):
        setattr(model.trainer_spec, name, fields.get(f"tokenizer.ggml.{key}", -1))
    model.trainer_spec.unk_id = types.index(UNKNOWN) if UNKNOWN in types else -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _config(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    architecture = fields.get("general.architecture")
    spm = fields["tokenizer.ggml.model"] == "llama"
    slow = "GemmaTokenizer" if str(architecture).startswith("gemma") else "LlamaTokenizer"
    config: dict[str, Any] = {
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", spm)),
        "add_eos_token": bool(fields.get("tokenizer.ggml.add_eos_token", False)),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": slow if spm else "PreTrainedTokenizerFast",
    }
    for name, key in NAMED_TOKENS.items():
        if f"tokenizer.ggml.{key}" in fields:
            config[name] = _named(fields, key, place)
    if length := fields.get(f"{architecture}.context_length"):
        config["model_max_length"] = length
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _named(fields: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text of the token whose id has this key."""
    token_id, tokens = fields.get(f"tokenizer.ggml.{key}"), fields["tokenizer.ggml.tokens"]
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
        raise DataError(
            f"{place}: tokenizer.ggml.{key} is {token_id}, expected an id of one of the"
            f" {len(tokens)} tokens; get the file again"
        )
    text: str = tokens[token_id]
    return text
