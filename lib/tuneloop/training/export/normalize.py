"""Text with what does not matter taken out, for comparisons; nothing of it is ever trained on.

One rule: the fast way, many ASCII texts at once, gives what the general way gives of each.
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
"""Between texts that are normalized together: no byte of ASCII, nor of UTF-8."""


def normalize_text(text: str) -> bytes:
    """NFC, case and runs of white space made equal: two texts that read the same."""
    if text.isascii():
        return _single_spaced(text.encode().translate(_NORMALIZED))
    return " ".join(_general(text).split()).encode("utf-8", "surrogatepass")


def words_of(normalized: bytes) -> bytes:
    """Of what `normalize_text` gave, letters and digits alone: words with one space between."""
    if normalized.isascii():
        return _single_spaced(normalized.translate(None, _NO_WORD))
    words = _NOT_IN_WORDS.sub("", normalized.decode("utf-8", "surrogatepass"))
    return " ".join(words.split()).encode("utf-8", "surrogatepass")


def normalize_words(text: str) -> bytes:
    """The words of a text."""
    return words_of(normalize_text(text))


def normalize_example(prompt: str, response: str) -> bytes:
    """`normalize_text` of an example, with a NUL where the response begins: content has none."""
    return normalize_text(_example_text(prompt, response))


def normalize_all(texts: Sequence[str]) -> list[bytes]:
    """`normalize_text` of each text."""
    if not all(map(str.isascii, texts)):
        return [normalize_text(text) for text in texts]
    normalized = _BETWEEN.decode("latin-1").join(texts).encode("latin-1").translate(_NORMALIZED)
    return [each.strip() for each in _SPACES.sub(b" ", normalized).split(_BETWEEN)]


def normalize_examples(examples: Sequence[tuple[str, str]]) -> list[bytes]:
    """`normalize_example` of each prompt and response."""
    return normalize_all([_example_text(prompt, response) for prompt, response in examples])


def letters_of_all(normalized: Sequence[bytes]) -> list[bytes]:
    """`words_of` of each, without the spaces: equal words have equal letters, not the reverse."""
    if all(map(bytes.isascii, normalized)):
        return _BETWEEN.join(normalized).translate(None, _NO_LETTER).split(_BETWEEN)
    return [words_of(each).replace(b" ", b"") for each in normalized]


def _example_text(prompt: str, response: str) -> str:
    return f"{prompt}\n\0\n{response}"


def _single_spaced(text: bytes) -> bytes:
    return _SPACES.sub(b" ", text).strip()


def _general(text: str) -> str:
    # Folding the case can undo the composition, so it is made in the middle.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
