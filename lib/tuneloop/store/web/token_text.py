"""The text of tokens for people: white space and invisible characters become visible."""

from __future__ import annotations

import re
import unicodedata
from itertools import islice
from typing import NamedTuple

SHOWN_HIDDEN = 8
"""Maximum number of code points that a page names for a text."""
_FORMAT = re.compile(
    "[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Characters of Unicode's category Cf without `JOINERS`, which words and emoji contain."""
JOINERS = "\u200c\u200d"
"""Characters that are invisible, but change how the ones next to them look."""


class Part(NamedTuple):
    """A part of a token's text."""

    text: str
    kind: str
    """`space`, `line` or `tab` for white space, `code` for the code point of an invisible
    character, and empty for text."""


def parts_of(text: str) -> list[Part]:
    """Split the text of a token into what is visible and what has to be made visible."""
    if text.isascii() and text.isprintable() and " " not in text:
        return [Part(text, "")]
    found: list[Part] = []
    plain = ""
    for at, char in enumerate(text):
        kind = _kind(char, is_inside=0 < at < len(text) - 1)
        if not kind:
            plain += char
            continue
        if plain:
            found.append(Part(plain, ""))
            plain = ""
        if kind == "space" and found and found[-1].kind == "space":
            found[-1] = Part(found[-1].text + char, kind)
        else:
            found.append(Part(f"U+{ord(char):04X}" if kind == "code" else char, kind))
    return [*found, Part(plain, "")] if plain else found


def hidden_in(text: str) -> list[str]:
    """Return the code points of format characters in a text, each once, at most `SHOWN_HIDDEN`.

    These characters are invisible. Some change the direction of text, so that a person reads
    something else than a model.
    """
    if text.isascii():
        return []
    found = dict.fromkeys(_FORMAT.findall(text))
    return [f"U+{ord(char):04X}" for char in islice(found, SHOWN_HIDDEN)]


def _kind(char: str, *, is_inside: bool) -> str:
    if char in " \n\t":
        return {" ": "space", "\n": "line", "\t": "tab"}[char]
    if char in JOINERS and is_inside:
        return ""  # part of an emoji or of a word, which it must not take apart
    # Control and format characters, such as those that change the direction of text, unassigned
    # ones, halves of surrogate pairs, and white space.
    return "code" if unicodedata.category(char)[0] in "CZ" else ""
