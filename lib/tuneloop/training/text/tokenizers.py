"""Tokenizers of all kinds behind one protocol, and how to load them from a model's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tuneloop.errors import DataError

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Highest id + 1."""

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Every string that plain text turns into one id, whatever stands around it."""

    def encode(self, text: str) -> list[int]:
        """Encode text as it stands.

        Control tokens written in the text become their ids; no other ids are added. Half of a
        surrogate pair, which UTF-8 cannot encode, counts as "?".
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; control tokens become their text, incomplete characters U+FFFD.

        Ids that only the model has, whose embedding can have more rows, become no text.
        """

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None if there is no such token."""


def load_tokenizer_files(files: Mapping[str, bytes], place: str) -> Tokenizer:
    """Load the tokenizer of a model: tokenizer.json, or else tokenizer.model.

    Args:
        files: contents by name; other files are ignored.
        place: folder of the files, for error messages.

    Raises:
        DataError: there is no tokenizer, or it is not valid.
    """
    # Each implementation needs a package of its own.
    if TOKENIZER_JSON in files:
        from tuneloop.training.text.json_tokenizer import JsonTokenizer

        return JsonTokenizer.load(files, f"{place}/{TOKENIZER_JSON}")
    if TOKENIZER_MODEL in files:
        from tuneloop.training.text.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer.load(files[TOKENIZER_MODEL], f"{place}/{TOKENIZER_MODEL}")
    raise DataError(
        f"{place}: found no tokenizer, expected {TOKENIZER_JSON} or {TOKENIZER_MODEL}; add the"
        " model again, with the tokenizer's files"
    )


def tokenizer_file(files: Mapping[str, bytes]) -> bytes:
    """Return the file that `load_tokenizer_files` reads."""
    return files[TOKENIZER_JSON if TOKENIZER_JSON in files else TOKENIZER_MODEL]


def tokenizer_name(data: bytes) -> str:
    """Return the name of the tokenizer file that has this content."""
    return TOKENIZER_JSON if data.lstrip()[:1] == b"{" else TOKENIZER_MODEL


def parse_json_object(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON file whose content must be an object.

    Raises:
        DataError: it is not.
    """
    try:
        found = json.loads(data)
    except ValueError as e:
        raise DataError(f"{place}: not valid JSON ({e}); get the file again") from e
    if not isinstance(found, dict):
        raise DataError(
            f"{place}: found {type(found).__name__}, expected a JSON object; get the file again"
        )
    return found


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode: half of a surrogate pair becomes "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
