"""Whether a training example holds what the model is going to be asked.

One rule: the eval set's prompts are compared as words, so that case, punctuation and white space
hide nothing: a trace with an eval prompt as its own prompt, or an example with 13 words in a row of
one anywhere in it, is contaminated. An eval prompt of fewer words is compared whole alone, since a
short phrase is found everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation

from tuneloop.training.normalise import fold_words

NGRAM_WORDS = 13
"""The run of words that GPT-3's and lm-eval's checks look for."""


class ContaminationIndex:
    """The prompts of an eval set, ready to be looked for."""

    def __init__(self, prompts: Mapping[str, str]) -> None:
        """Take the eval set's ids and prompts."""
        self._exact: dict[bytes, str] = {}
        grams: dict[bytes, str] = {}
        for item, prompt in prompts.items():
            words = fold_words(prompt)
            self._exact.setdefault(words, item)
            for gram in _grams(words):
                grams.setdefault(gram, item)
        self._grams = list(grams.items())
        patterns = [gram for gram, _ in self._grams]
        self._finder = (
            BytesAhoCorasick(patterns, implementation=Implementation.DFA) if patterns else None
        )

    def find(self, trace_prompt: str, prompt: str, response: str) -> str | None:
        """Say which eval item an example holds, None if none.

        Args:
            trace_prompt: the trace's own prompt, without the dataset's instruction.
            prompt: what the example's user says.
            response: what its model says.
        """
        if item := self._exact.get(fold_words(trace_prompt)):
            return f"its prompt is that of eval item {item}"
        if self._finder is None:
            return None
        text = b" %b " % fold_words(f"{prompt}\n{response}")
        found = self._finder.find_matches_as_indexes(text)
        if not found:
            return None
        gram, item = self._grams[found[0][0]]
        words = gram.strip().decode("utf-8", "replace")
        return f"{NGRAM_WORDS} words in a row are in eval item {item}: {words}"


def _grams(words: bytes) -> list[bytes]:
    """Every run of words, with the spaces around it, so that it begins and ends with a word."""
    parts = words.split(b" ")
    runs = range(len(parts) - NGRAM_WORDS + 1)
    return [b" %b " % b" ".join(parts[start : start + NGRAM_WORDS]) for start in runs]
