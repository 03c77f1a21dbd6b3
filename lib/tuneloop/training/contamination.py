"""Whether a training example holds what the model is going to be asked.

One rule: the eval set's prompts are compared as words, so that case, punctuation and white space
hide nothing: a trace with an eval prompt as its own prompt, or an example with 13 words in a row of
one anywhere in it, is contaminated. An eval prompt of fewer words is compared whole alone, since a
short phrase is found everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation

from tuneloop.training.normalise import fold_words, words_of

NGRAM_WORDS = 13
"""The run of words that GPT-3's and lm-eval's checks look for."""
ANCHOR_WORDS = 4
"""What is looked for first: of every 13 words in a row, 4 that stand in a fixed place."""
_ANCHOR_EVERY = NGRAM_WORDS - ANCHOR_WORDS + 1


class ContaminationIndex:
    """The prompts of an eval set, ready to be looked for."""

    def __init__(self, prompts: Mapping[str, str]) -> None:
        """Take the eval set's ids and prompts."""
        self._exact: dict[bytes, str] = {}
        self._grams: dict[bytes, str] = {}
        anchors: dict[bytes, None] = {}
        for item, prompt in prompts.items():
            words = fold_words(prompt)
            self._exact.setdefault(words, item)
            grams = _runs(words, NGRAM_WORDS)
            for gram in grams:
                self._grams.setdefault(gram, item)
            if grams:
                # Whichever 13 words are taken, they hold one of these whole.
                anchors.update(dict.fromkeys(_runs(words, ANCHOR_WORDS)[::_ANCHOR_EVERY]))
        # Few and short patterns: the automaton stays in the processor's cache.
        self._anchors = (
            BytesAhoCorasick(
                [b" %b " % anchor for anchor in anchors], implementation=Implementation.DFA
            )
            if anchors
            else None
        )

    def find(self, trace_prompt: str, folded: bytes) -> str | None:
        """Say which eval item an example holds, None if none.

        Args:
            trace_prompt: the trace's own prompt, without the dataset's instruction.
            folded: the example's text, from `fold_example`.
        """
        if item := self._exact.get(fold_words(trace_prompt)):
            return f"its prompt is that of eval item {item}"
        if self._anchors is None:
            return None
        words = words_of(folded)
        if not self._anchors.find_matches_as_indexes(b" %b " % words):
            return None
        gram = next((run for run in _runs(words, NGRAM_WORDS) if run in self._grams), None)
        if gram is None:
            return None
        said = gram.decode("utf-8", "replace")
        return f"{NGRAM_WORDS} words in a row are in eval item {self._grams[gram]}: {said}"


def _runs(words: bytes, length: int) -> list[bytes]:
    """Every run of so many words, in order."""
    parts = words.split(b" ")
    return [b" ".join(parts[at : at + length]) for at in range(len(parts) - length + 1)]
