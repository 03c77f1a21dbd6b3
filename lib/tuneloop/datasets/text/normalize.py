"""Text normalization for duplicate and contamination checks; normalized text is never trained on.

There is a fast path for ASCII texts, and for many of them at once. It gives the same result as the
general path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ASCII = [chr(code) for code in range(128)]
_NORMALIZED = bytes(ord(" " if c.isspace() else c.lower()) for c in _ASCII) + bytes(range(128, 256))
_NO_WORD = "".join(c for c in _ASCII if not c.isalnum() and not c.isspace()).encode()
_NO_LETTER = "".join(c for c in _ASCII if not c.isalnum()).encode()
_NOT_IN_WORDS = re.compile(r"[^\w\s]+|_+")
_SPACES = re.compile(rb"  +")
_BETWEEN = b"\xff"
"""Separator between texts that are normalized together; the byte occurs in neither ASCII nor
UTF-8."""


def normalize_text(text: str) -> bytes:
    """Normalize Unicode (NFC), case and runs of white space."""
    if text.isascii():
        return _single_spaced(text.encode().translate(_NORMALIZED))
    return " ".join(_general(text).split()).encode("utf-8", "surrogatepass")


def words_of(normalized: bytes) -> bytes:
    """Reduce normalized text to its words: letters and digits, separated by single spaces."""
    if normalized.isascii():
        return _single_spaced(normalized.translate(None, _NO_WORD))
    words = _NOT_IN_WORDS.sub("", normalized.decode("utf-8", "surrogatepass"))
    return " ".join(words.split()).encode("utf-8", "surrogatepass")


def normalize_words(text: str) -> bytes:
    """Normalize a text and return its words."""
    return words_of(normalize_text(text))


def normalize_example(prompt: str, response: str) -> bytes:
    """Normalize an example, with a NUL between prompt and response, which contain none."""
    return normalize_text(_example_text(prompt, response))


def normalize_all(texts: Sequence[str]) -> list[bytes]:
    """Apply `normalize_text` to each text; many ASCII texts are normalized in one pass."""
    if not all(map(str.isascii, texts)):
        return [normalize_text(text) for text in texts]
    normalized = _BETWEEN.decode("latin-1").join(texts).encode("latin-1").translate(_NORMALIZED)
    return [each.strip() for each in _SPACES.sub(b" ", normalized).split(_BETWEEN)]


def normalize_examples(examples: Sequence[tuple[str, str]]) -> list[bytes]:
    """Apply `normalize_example` to each (prompt, response), with the speed of `normalize_all`."""
    return normalize_all([_example_text(prompt, response) for prompt, response in examples])


def letters_of_all(normalized: Sequence[bytes]) -> list[bytes]:
    """Apply `words_of` to each text and remove the spaces.

    Equal words give equal letters, but different words can give equal letters too.
    """
    if all(map(bytes.isascii, normalized)):
        return _BETWEEN.join(normalized).translate(None, _NO_LETTER).split(_BETWEEN)
    return [words_of(each).replace(b" ", b"") for each in normalized]


def _example_text(prompt: str, response: str) -> str:
    return f"{prompt}\n\0\n{response}"


def _single_spaced(text: bytes) -> bytes:
    return _SPACES.sub(b" ", text).strip()


def _general(text: str) -> str:
    # Case folding can undo the NFC composition, so NFC is applied before and after it.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
