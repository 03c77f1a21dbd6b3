"""Contains: a text is correct if an accepted answer is in it as a whole word or number.

For free text, such as the answers to general questions, from which no answer is extracted. A text
that names several answers is correct if one of them is.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.row import correct, wrong
from tuneloop.evaluation.scorers.rows.exact import ExactOptions
from tuneloop.evaluation.scorers.text.normalise import normal_spellings, normalise


def judge_contains(text: str, item: Item, options: ExactOptions) -> Judgement:
    """Look for every accepted answer in a text."""
    sensitive = item.case_sensitive if options.case_sensitive is None else options.case_sensitive
    spellings = normal_spellings((item.expected_answer, *item.accepted_answers), sensitive)
    found = normalise(text, case_sensitive=sensitive)
    # Longer spellings first, so that the report names the most complete one.
    for spelling in sorted(spellings, key=lambda each: (-len(each), each)):
        if _pattern(spelling).search(found):
            return correct(text, spellings[spelling])
    return wrong(text)


@lru_cache(maxsize=65536)
def _pattern(spelling: str) -> re.Pattern[str]:
    """Match a spelling that is not part of a longer word or number."""
    before, after = r"(?<!\w)", r"(?!\w)"
    if spelling[:1].isdigit():  # 5 is neither in 3.5 nor in -5 nor in 1/5 nor in 2^5
        before += r"(?<!\d[.,])(?<![-/^_])"
    if spelling[-1:].isdigit():  # 5 is not in 5.2, 5/2 or 5^2
        after += r"(?![.,]\d)(?![/^_]\w)"
    return re.compile(before + re.escape(spelling) + after)
