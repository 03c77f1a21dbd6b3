"""Exact: an answer is correct if it equals an accepted answer after normalisation.

Normalisation removes differences of spelling and never changes the value (`text/normalise.py`).
"""

from __future__ import annotations

import re

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, wrong
from tuneloop.evaluation.scorers.text.normalise import normal_spellings, normalise
from tuneloop.evaluation.scorers.text.places import last_line, marked

_CLAUSE = re.compile(r"[,;:.!?](?=\s)|\s[—–-](?=\s)|\s\(|\sbecause\b|\ssince\b")


class ExactOptions(Options):
    """Options of `exact`."""

    case_sensitive: bool | None = None
    """Whether letter case matters; null takes the item's `case_sensitive`."""


def judge_exact(answer: str, item: Item, options: ExactOptions) -> Judgement:
    """Compare an answer with every accepted answer."""
    sensitive = item.case_sensitive if options.case_sensitive is None else options.case_sensitive
    spellings = normal_spellings((item.expected_answer, *item.accepted_answers), sensitive)
    found = normalise(answer, case_sensitive=sensitive)
    if found in spellings:
        return correct(answer, spellings[found])
    return wrong(answer)


def search_exact(text: str, item: Item, options: ExactOptions) -> list[str]:
    """Try what is marked as the answer, whole and up to the end of its clause, or the last line."""
    found = marked(text)
    if found is None:
        return [line] if (line := last_line(text)) else []
    clause = _CLAUSE.split(found, maxsplit=1)[0].strip()
    return [found, clause] if clause and clause != found else [found]
