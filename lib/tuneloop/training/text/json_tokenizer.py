"""Tokenizers of the file tokenizer.json, run by the package `tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

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
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def _add_tokens(tokenizer: tokenizers.Tokenizer, config: bytes, place: str) -> None:
    """Add the tokens that tokenizer_config.json lists and tokenizer.json lacks."""
    listed = parse_json_object(config, place.replace(TOKENIZER_JSON, TOKENIZER_CONFIG)).get(
        "added_tokens_decoder"
    )
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token_id, fields in sorted((listed or {}).items(), key=lambda item: int(item[0])):
        if fields["content"] in known:
            continue
        names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        token = tokenizers.AddedToken(**{name: fields[name] for name in names if name in fields})
        tokenizer.add_tokens([token])
        found = tokenizer.token_to_id(fields["content"])
        if found != int(token_id):
            raise DataError(
                f"{place}: {fields['content']} becomes id {found}, expected {token_id} as in"
                f" {TOKENIZER_CONFIG}; get both files of the same version"
            )
