"""Exact match: the answer equals an accepted spelling after normalisation.

A missing answer is an outcome of its own. A model that never learnt the format and one that reasons
badly both score 0, but for different reasons, and the report shows which.
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
    """Bring two spellings of one answer together.

    NFKC, white space collapsed and trimmed, one full stop at the end and surrounding quotes
    removed, `1,234` read as `1234`, case folded unless it matters. Nothing else is forgiven.
    """
    text = " ".join(unicodedata.normalize("NFKC", answer).split())
    text = text.removesuffix(".").rstrip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    text = _THOUSANDS.sub("", text)
    return text if case_sensitive else text.casefold()


def score_exact_match(item: EvalItem, answer: str | None) -> Score:
    """Compare an extracted answer with every accepted spelling."""
    if answer is None:
        return Score.no_answer()
    found = normalise(answer, case_sensitive=item.case_sensitive)
    accepted = _normalised(item)
    if found in accepted:
        return Score.correct(answer, found)
    return Score.wrong(answer)


def _normalised(item: EvalItem) -> set[str]:
    spellings: Iterable[str] = (item.expected_answer, *item.accepted_answers)
    return {normalise(text, case_sensitive=item.case_sensitive) for text in spellings}
