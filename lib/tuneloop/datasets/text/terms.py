"""Terms of a text: its words, with the operators, signs and decimal points beside their digits.

Words alone would make `13 + 4`, `13 - 4` and `1.3 + 4` equal. An operator belongs to the term after
it, so that `13+4` and `13 + 4` have the same two terms.
"""

from __future__ import annotations

import re

from tuneloop.datasets.text.normalize import normalize_text, words_of

_SPELLINGS = {
    ord(other): sign
    for sign, others in {
        "*": "×·\u2217⋅\uff0a",
        "/": "÷\u2215\u2044\uff0f",
        "-": "\u2212\u2010\u2011\u2012\u2013\uff0d",
        "<": "≤\uff1c",
        ">": "≥\uff1e",
        "+": "\uff0b",
        "%": "\uff05",
    }.items()
    for other in others
}
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|[`$]")
"""Marks of Markdown, which are no operators."""
_MARKS = re.compile(
    r"(?<=\d)[.](?=\d)"  # a decimal point
    r"|(?<![\w)])(?:(?<=\s)|(?<=[(=+*/^<>-])|^)-(?=\d)"  # a sign
    # An operator between two terms, of which one has a digit beside it.
    r"|(?<=\d)\s*([-+*/^<>%])\s*(?=[\w(+-])"
    r"|(?<=[\w)])\s*([-+*/^<>%])\s*(?=[(+-]*\d)"
)


_OPERATORS = ".-+*/^<>%"
_KEPT = {sign: chr(0x10 + number) for number, sign in enumerate(_OPERATORS)}
"""Stand-ins of the marks while all other punctuation is removed: control characters."""
_REMOVED = {ord(stand_in): None for stand_in in _KEPT.values()}
_SIGNS = {ord(stand_in): sign for sign, stand_in in _KEPT.items()}
_NOT_IN_TERMS = re.compile(rf"[^\w\s{''.join(_KEPT.values())}]+|_+")


def normalize_terms(text: str) -> bytes:
    """Normalize a text and return its terms, separated by single spaces."""
    normalized = normalize_text(text)
    # Without digits there are no marks, and the fast path gives the same.
    if not any(map(str.isdigit, text)):
        return words_of(normalized)
    marked = normalized.decode("utf-8", "surrogatepass").translate(_REMOVED)
    marked = _MARKS.sub(_keep, _BOLD.sub("", marked).translate(_SPELLINGS))
    terms = _NOT_IN_TERMS.sub("", marked).translate(_SIGNS)
    return " ".join(terms.split()).encode("utf-8", "surrogatepass")


def _keep(mark: re.Match[str]) -> str:
    is_operator = any(mark.groups())
    return (" " if is_operator else "") + _KEPT[mark[0].strip()]
