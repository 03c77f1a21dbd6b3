"""Keep content from spelling control tokens.

A tokenizer turns the text of a control token into the token, wherever the text comes from.
Therefore a WORD JOINER (U+2060, invisible) is inserted after the first character of each control
token that content spells. This can be undone exactly, also for content that has WORD JOINERs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WORD_JOINER = "\u2060"
_SPACE_MARK = "\u2581"


class ControlTokens:
    """A set of control tokens that content must not spell.

    Whether a WORD JOINER is inserted depends only on the text without WORD JOINERs, which neither
    direction changes. So the number of WORD JOINERs after a character says how many there were.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        """Prepare the search.

        Args:
            tokens: texts of the tokens. Ignored are white space, which separates words and controls
                nothing, and single characters, which cannot be split.
        """
        self.tokens = frozenset(token for token in tokens if _is_control(token))
        self._lengths: dict[str, tuple[int, ...]] = {}
        for first in {token[0] for token in self.tokens}:
            found = {len(token) for token in self.tokens if token[0] == first}
            self._lengths[first] = tuple(sorted(found))
        firsts = "".join(re.escape(first) for first in sorted(self._lengths))
        self._first = re.compile(f"[{firsts}]") if firsts else None

    def neutralise(self, content: str) -> str:
        """Insert a WORD JOINER after the first character of every control token."""
        if self._first is None or self._first.search(content) is None:
            return content
        if WORD_JOINER not in content:
            return _insert(content, self._starts(content))
        return "".join(
            character + (WORD_JOINER if starts else "") + joiners
            for character, joiners, starts in self._characters(content)
        )

    def restore(self, content: str) -> str:
        """Undo `neutralise`."""
        if self._first is None or WORD_JOINER not in content:
            return content
        return "".join(
            character + joiners[1 if starts else 0 :]
            for character, joiners, starts in self._characters(content)
        )

    def _characters(self, content: str) -> Iterator[tuple[str, str, bool]]:
        """Yield each character, the WORD JOINERs after it, and whether a control token starts here.

        WORD JOINERs at the beginning follow an empty character.
        """
        first, *others = re.split(f"([^{WORD_JOINER}])", content)
        yield "", first, False
        characters, joiners = others[::2], others[1::2]
        starts = set(self._starts("".join(characters)))
        for position, pair in enumerate(zip(characters, joiners, strict=True)):
            yield *pair, position in starts

    def _starts(self, text: str) -> Iterator[int]:
        """Yield where control tokens start, overlapping ones included."""
        if self._first is None:
            return
        for match in self._first.finditer(text):
            at = match.start()
            lengths = self._lengths[match.group()]
            if any(text[at : at + length] in self.tokens for length in lengths):
                yield at


def _is_control(token: str) -> bool:
    return len(token) > 1 and bool(token.replace(_SPACE_MARK, " ").strip())


def _insert(text: str, starts: Iterator[int]) -> str:
    parts, done = [], 0
    for start in starts:
        parts.append(text[done : start + 1])
        done = start + 1
    return WORD_JOINER.join([*parts, text[done:]])
