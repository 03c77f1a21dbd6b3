"""Exact match: an answer is correct if it equals an accepted spelling after normalisation.

A missing answer has its own outcome. A model that has not learned the format and a model that
reasons badly both score 0, and the report shows the difference.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}


def normalise(answer: str, *, case_sensitive: bool = False) -> str:
    """Normalise an answer for the comparison.

    The steps are NFKC; collapsing and trimming white space; removing one final full stop and
    surrounding quotes; reading `1,234` as `1234`; folding case. All other differences count.

    Args:
        answer: the answer as written.
        case_sensitive: keep letter case.
    """
    text = " ".join(unicodedata.normalize("NFKC", answer).split())
    text = text.removesuffix(".").rstrip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    text = _THOUSANDS.sub("", text)
    return text if case_sensitive else text.casefold()


def score_exact_match(item: EvalItem, answer: str | None) -> Score:
    """Compare an extracted answer with every accepted spelling; None means no answer was found."""
    if answer is None:
        return Score.no_answer()
    found = normalise(answer, case_sensitive=item.case_sensitive)
    accepted = accepted_spellings(item)
    if found in accepted:
        return Score.correct(answer, found)
    return Score.wrong(answer)


def accepted_spellings(item: EvalItem) -> set[str]:
    """Return the normalised spellings of an item's correct answer."""
    spellings: Iterable[str] = (item.expected_answer, *item.accepted_answers)
    return {normalise(text, case_sensitive=item.case_sensitive) for text in spellings}
