"""Contains answer: a text is correct if an accepted answer stands in it as a whole word.

For free text, such as the answers to general questions, from which no answer is extracted. A text
that names several answers is correct if one of them is.
"""

from __future__ import annotations

import re

from tuneloop.evaluation.scorers.exact_match import accepted_spellings, normalise
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem


def score_contains_answer(item: EvalItem, text: str | None) -> Score:
    """Look for every accepted spelling in a text; a blank text is no answer."""
    if text is None or not text.strip():
        return Score.no_answer()
    found = normalise(text, case_sensitive=item.case_sensitive)
    # Longer spellings first, so that the report names the most complete one.
    for spelling in sorted(accepted_spellings(item), key=lambda each: (-len(each), each)):
        if _pattern(spelling).search(found):
            return Score.correct(text, spelling)
    return Score.wrong(text)


def _pattern(spelling: str) -> re.Pattern[str]:
    """Match a spelling that is not part of a longer word or number."""
    before, after = r"(?<!\w)", r"(?!\w)"
    if spelling[:1].isdigit():  # 5 is neither in 3.5 nor in -5
        before += r"(?<!\d[.,])(?<![-−])"
    if spelling[-1:].isdigit():  # 5 is not in 5.2
        after += r"(?![.,]\d)"
    return re.compile(before + re.escape(spelling) + after)
