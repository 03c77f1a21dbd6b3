"""Text with what does not matter taken out, for comparisons; nothing of it is ever trained on.

One rule: the fast way for ASCII gives what the general way gives.
"""

from __future__ import annotations

import re
import unicodedata

_ASCII = [chr(code) for code in range(128)]
_FOLDED = bytes(ord(" " if c.isspace() else c.lower()) for c in _ASCII) + bytes(range(128, 256))
_NO_WORD = "".join(c for c in _ASCII if not c.isalnum() and not c.isspace()).encode()
_NOT_IN_WORDS = re.compile(r"[^\w\s]+|_+")


def fold(text: str) -> bytes:
    """NFC, case and runs of white space made equal: two texts that read the same."""
    if text.isascii():
        return _single_spaced(text.encode().translate(_FOLDED))
    return " ".join(_general(text).split()).encode("utf-8", "surrogatepass")


def words_of(folded: bytes) -> bytes:
    """Of what `fold` gave, letters and digits alone: words with one space between."""
    if folded.isascii():
        return _single_spaced(folded.translate(None, _NO_WORD))
    words = _NOT_IN_WORDS.sub("", folded.decode("utf-8", "surrogatepass"))
    return " ".join(words.split()).encode("utf-8", "surrogatepass")


def fold_words(text: str) -> bytes:
    """The words of a text."""
    return words_of(fold(text))


def fold_example(prompt: str, response: str) -> bytes:
    """`fold` of an example, with a NUL where the response begins: content has none."""
    return fold(f"{prompt}\n\0\n{response}")


def _single_spaced(text: bytes) -> bytes:
    # A few double spaces among many words: ten times as fast as split and join.
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text.strip()


def _general(text: str) -> str:
    # Folding the case can undo the composition, so it is made in the middle.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
