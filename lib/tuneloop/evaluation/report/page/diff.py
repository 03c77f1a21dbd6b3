"""Word diffs of two answers, in bounded time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

Runs = list[tuple[bool, str]]
"""Text in parts: (whether it differs from the other text, part)."""

MAX_PRODUCT = 1_000_000
"""Largest product of the two numbers of words for which words are matched: 1,000 words each."""
MAX_TOTAL = 200_000_000
"""Largest sum of these products in one report."""
_WORD = re.compile(r"(?:\w+|[^\w\s])[^\S\n]*|\s+")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class WordDiff:
    """Compares pairs of texts until its budget is used up; equal calls give equal results.

    The budget counts operations and not time, so that a report has the same bytes on any machine.
    """

    def __init__(self, budget: int = MAX_TOTAL) -> None:
        """Start with a budget, in products of numbers of words."""
        self._budget = budget

    def runs(self, before: str, after: str) -> tuple[Runs, Runs]:
        """Return both texts in parts.

        Long texts are compared by lines, and still longer ones from their first difference to
        their last one.
        """
        for pattern in (_WORD, _LINE):
            a, b = pattern.findall(before), pattern.findall(after)
            start, end = _common_ends(a, b)
            product = (len(a) - start - end) * (len(b) - start - end)
            if product <= min(MAX_PRODUCT, self._budget):
                self._budget -= product
                return _matched(a, b, start, end)
        a, b = _WORD.findall(before), _WORD.findall(after)
        start, end = _common_ends(a, b)
        return _whole(a, start, end), _whole(b, start, end)


def _common_ends(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return start, end


def _matched(a: list[str], b: list[str], start: int, end: int) -> tuple[Runs, Runs]:
    """Match the words between two common ends."""
    last_a, last_b = len(a) - end, len(b) - end
    matcher = SequenceMatcher(None, a[start:last_a], b[start:last_b])
    # Blocks that both texts share: (start in a, start in b, words).
    blocks = [(0, 0, start)]
    for i, j, size in matcher.get_matching_blocks():
        if _is_worth_showing(a[start + i : start + i + size]):
            blocks.append((start + i, start + j, size))
    blocks.append((last_a, last_b, end))
    before: Runs = []
    after: Runs = []
    at_a = at_b = 0
    for i, j, size in blocks:
        before += [(True, "".join(a[at_a:i])), (False, "".join(a[i : i + size]))]
        after += [(True, "".join(b[at_b:j])), (False, "".join(b[j : j + size]))]
        at_a, at_b = i + size, j + size
    return _compact(before), _compact(after)


def _is_worth_showing(words: Sequence[str]) -> bool:
    """Return whether a common part helps a reader: single words between changes do not."""
    return sum(word.strip().isalnum() for word in words) > 1 or any("\n" in word for word in words)


def _whole(words: Sequence[str], start: int, end: int) -> Runs:
    last = len(words) - end
    parts = words[:start], words[start:last], words[last:]
    return _compact([(n == 1, "".join(part)) for n, part in enumerate(parts)])


def _compact(runs: Runs) -> Runs:
    """Drop empty parts, and join neighbours of the same kind."""
    joined: Runs = []
    for changed, text in runs:
        if joined and joined[-1][0] == changed:
            joined[-1] = (changed, joined[-1][1] + text)
        elif text:
            joined.append((changed, text))
    return joined
