"""Tokenizers of the file tokenizer.json, run by the package `tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec
import tokenizers

from tuneloop.errors import DataError
from tuneloop.training.text.tokenizers import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    encodable,
    parse_json_object,
)


class JsonTokenizer:
    """A tokenizer of the file tokenizer.json."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Take over a tokenizer; padding and truncation are switched off."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = tuple(added[token_id].content for token_id in sorted(added))

    @classmethod
    def load(cls, files: Mapping[str, bytes], place: str) -> JsonTokenizer:
        """Load tokenizer.json, and the tokens that only tokenizer_config.json adds.

        Raises:
            DataError: a file is not valid.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(files[TOKENIZER_JSON])
        except Exception as e:  # the package raises nothing more special
            raise DataError(
                f"{place}: not a tokenizer that the package tokenizers"
                f" {tokenizers.__version__} reads ({e}); get the file again"
            ) from e
        if TOKENIZER_CONFIG in files:
            _add_tokens(tokenizer, files[TOKENIZER_CONFIG], place)
        return cls(tokenizer)

    @cached_property
    def vocab_size(self) -> int:
        """Highest id + 1."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """The added tokens, special or not, in the order of their ids."""
        return self._added

    def encode(self, text: str) -> list[int]:
        """Encode text; the template of the file's post-processor is not applied."""
        ids: list[int] = self._tokenizer.encode(encodable(text), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, control tokens included."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None if there is no such token."""
        found: int | None = self._tokenizer.token_to_id(encodable(token))
        return found


class _AddedToken(msgspec.Struct, frozen=True):
    """A token as tokenizer_config.json describes it under its id."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


def _add_tokens(tokenizer: tokenizers.Tokenizer, config: bytes, place: str) -> None:
    """Add the tokens that tokenizer_config.json lists and tokenizer.json lacks."""
    place = place.removesuffix(TOKENIZER_JSON) + TOKENIZER_CONFIG
    listed = parse_json_object(config, place).get("added_tokens_decoder") or {}
    try:
        # The ids are keys of a JSON object, so they are text.
        tokens = msgspec.convert(listed, dict[int, _AddedToken], strict=False)
    except ValueError as e:  # msgspec.ValidationError or UnicodeEncodeError
        raise DataError(
            f"{place}: added_tokens_decoder is not a description of tokens by id ({e}); get the"
            " file again"
        ) from e
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token_id, token in sorted(tokens.items()):
        fields = msgspec.structs.asdict(token) | {"content": encodable(token.content)}
        if fields["content"] in known:
            continue
        tokenizer.add_tokens([tokenizers.AddedToken(**fields)])
        found = tokenizer.token_to_id(fields["content"])
        if found != token_id:
            raise DataError(
                f"{place}: {token.content} becomes id {found}, expected {token_id} as listed here;"
                f" get this file and {TOKENIZER_JSON} of the same version"
            )
