"""Check that a model's tokenizer and its chat template can be read and fit its embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tuneloop.errors import DataError
from tuneloop.models.describe import TOKENIZERS
from tuneloop.training.text.jinja_template import find_template
from tuneloop.training.text.tokenizers import load_tokenizer_files


def check_tokenizer(contents: Mapping[str, bytes], vocab_size: int, place: str) -> None:
    """Check the tokenizer, if there is one, against the rows of the embedding.

    Added tokens may lie beyond the embedding: Gemma 3's text models have one for images.

    Args:
        contents: the model's small files by name.
        vocab_size: rows of the embedding.
        place: the folder, for error messages.

    Raises:
        DataError: the tokenizer is broken, or has ids that the embedding has no rows for.
    """
    name = next((each for each in TOKENIZERS if each in contents), None)
    if name is None:
        return
    tokenizer = load_tokenizer_files(contents, place)
    ids = map(tokenizer.token_id, tokenizer.added_tokens)
    added = {each for each in ids if each is not None and each >= vocab_size}
    if tokenizer.vocab_size - vocab_size > len(added):
        raise DataError(
            f"{place}/{name}: has ids up to {tokenizer.vocab_size - 1:,}, but the embedding has"
            f" {vocab_size:,} rows, expected a row for each id; take tokenizer and weights from the"
            " same model"
        )


def template_digest(contents: Mapping[str, bytes], place: str) -> str | None:
    """Return the sha256 of the chat template's text; None if there is none.

    Raises:
        DataError: a file with the template is broken.
    """
    found = find_template(contents, place)
    return hashlib.sha256(found[0].encode()).hexdigest() if found else None
