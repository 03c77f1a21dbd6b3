"""Normalise an answer for comparison, without changing its value."""

from __future__ import annotations

import re
from functools import lru_cache

from tuneloop.evaluation.scorers.text.characters import GROUP, plain_characters
from tuneloop.evaluation.scorers.text.control import without_control_tokens

_GROUPED = re.compile(
    rf"(?<![\w.,{GROUP}])[0-9]{{1,3}}(?:(?:,[0-9]{{3}})+|(?:{GROUP}[0-9]{{3}})+)(?![\w{GROUP}]|,[0-9])"
)
_BRACKETS = re.compile(r"[\[\](){}]")
_QUOTES = {
    '"': '"', "'": "'", "`": "`", "«": "»", "»": "«", "„": '"', "‹": "›", "「": "」", "『": "』",
}  # fmt: skip
_LATEX = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textrm|mathrm|mathbf|mbox) ?\{(?P<braced>[^{}]*)\}"
    r"|\\\( ?(?P<inline>[^\\$]*?) ?\\\)|\\\[ ?(?P<display>[^\\$]*?) ?\\\]|\$\$?(?P<math>[^$]+)\$\$?"
    r"|\*\*(?P<bold>[^*]+)\*\*"
)
_NESTED = 8
"""Marks around an answer that are removed at most, one inside the other."""


def normalise(answer: str, *, case_sensitive: bool = False) -> str:
    """Normalise an answer for the comparison, in linear time.

    The steps are: plain characters (`characters.py`); white space collapsed; no control tokens,
    final full stop, quotes, bold marks, mathematics marks or LaTeX box around the answer, in any
    order; `1,234` read as `1234` in a text without brackets; case folded. All other differences
    count.

    Args:
        answer: the answer as written.
        case_sensitive: keep letter case.

    Returns:
        The normal form. It is empty only if the answer is blank.
    """
    text = undecorated(plain_characters(answer))
    if _BRACKETS.search(text) is None:  # [1,234] is a list of two numbers
        text = _GROUPED.sub(_ungrouped, text)
    text = text.replace(GROUP, " ")
    return text if case_sensitive else text.casefold()


@lru_cache(maxsize=65536)
def normal_spellings(spellings: tuple[str, ...], case_sensitive: bool) -> dict[str, str]:
    """Return the normal form of each spelling -> the first spelling that has it."""
    found: dict[str, str] = {}
    for spelling in spellings:
        found.setdefault(normalise(spelling, case_sensitive=case_sensitive), spelling)
    return found


def undecorated(text: str) -> str:
    """Collapse white space and remove what surrounds an answer, until nothing more does.

    Args:
        text: text in plain characters.
    """
    text = without_control_tokens(_collapsed(text))
    for _ in range(_NESTED):
        inner = _collapsed(_inner(text))
        if inner in (text, ""):
            break
        text = inner
    return text


def _collapsed(text: str) -> str:
    """Collapse white space; a space that groups digits is kept."""
    if GROUP not in text:
        return " ".join(text.split())
    return " ".join(part for part in re.split(r"[^\S\u00a0]+", text) if part)


def _inner(text: str) -> str:
    """Remove one full stop or one pair of marks; the text itself if there is none."""
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1]
    first = text[:1]
    if len(text) > 1 and _QUOTES.get(first) == text[-1]:
        inner = text[1:-1]
        return inner if first not in inner and text[-1] not in inner else text
    if first in "\\$*" and (found := _LATEX.fullmatch(text)):
        return str(next(part for part in found.groups() if part is not None))
    return text


def _ungrouped(found: re.Match[str]) -> str:
    return found[0].replace(",", "").replace(GROUP, "")
