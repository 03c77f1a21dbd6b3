"""Whether a training example holds what the model is going to be asked.

One rule: the eval set's prompts are compared as words, so that case, punctuation and white space
hide nothing: a trace with an eval prompt as its own prompt, or an example with 13 words in a row of
one anywhere in it, is contaminated. An eval prompt of fewer words is compared whole alone, since a
short phrase is found everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ahocorasick_rs import BytesAhoCorasick, Implementation

from tuneloop.training.export.normalize import (
    letters_of_all,
    normalize_all,
    normalize_words,
    words_of,
)

NGRAM_WORDS = 13
"""The run of words that GPT-3's and lm-eval's checks look for."""
ANCHOR_WORDS = 4
"""What is looked for first: of every 13 words in a row, 4 that stand in a fixed place."""
_ANCHOR_EVERY = NGRAM_WORDS - ANCHOR_WORDS + 1


class ContaminationIndex:
    """The prompts of an eval set, ready to be looked for.

    Nearly every example holds nothing of them, so what is quick to see comes first: letters alone,
    of many examples at once. Words are made of what that finds, and they decide.
    """

    def __init__(self, prompts: Mapping[str, str]) -> None:
        """Take the eval set's ids and prompts."""
        self._exact: dict[bytes, str] = {}
        self._grams: dict[bytes, str] = {}
        anchors: dict[bytes, None] = {}
        for item, prompt in prompts.items():
            words = normalize_words(prompt)
            self._exact.setdefault(words, item)
            grams = _runs(words, NGRAM_WORDS)
            for gram in grams:
                self._grams.setdefault(gram, item)
            if grams:
                # Whichever 13 words are taken, they hold one of these whole.
                anchors.update(dict.fromkeys(_runs(words, ANCHOR_WORDS)[::_ANCHOR_EVERY]))
        self._exact_letters = {_letters(words) for words in self._exact}
        # Few and short patterns: the automaton stays in the processor's cache.
        self._anchors = (
            BytesAhoCorasick(
                list({_letters(anchor) for anchor in anchors}), implementation=Implementation.DFA
            )
            if anchors
            else None
        )

    def find(self, trace_prompt: str, normalized: bytes) -> str | None:
        """Say which eval item an example holds, None if none.

        Args:
            trace_prompt: the trace's own prompt, without the dataset's instruction.
            normalized: the example's text, from `normalize_example`.
        """
        return self.find_all([trace_prompt], [normalized])[0]

    def find_all(
        self, trace_prompts: Sequence[str], normalized: Sequence[bytes]
    ) -> list[str | None]:
        """`find` of each example."""
        found: list[str | None] = [None] * len(normalized)
        for number, prompt in enumerate(letters_of_all(normalize_all(trace_prompts))):
            if prompt in self._exact_letters:
                found[number] = self._find_exact(trace_prompts[number])
        examples = letters_of_all(normalized)
        if self._holds_an_anchor(b" ".join(examples)):
            for number, letters in enumerate(examples):
                if found[number] is None and self._holds_an_anchor(letters):
                    found[number] = self._find_gram(words_of(normalized[number]))
        return found

    def _find_exact(self, trace_prompt: str) -> str | None:
        item = self._exact.get(normalize_words(trace_prompt))
        return item and f"its prompt is that of eval item {item}"

    def _holds_an_anchor(self, letters: bytes) -> bool:
        return self._anchors is not None and bool(self._anchors.find_matches_as_indexes(letters))

    def _find_gram(self, words: bytes) -> str | None:
        gram = next((run for run in _runs(words, NGRAM_WORDS) if run in self._grams), None)
        if gram is None:
            return None
        said = gram.decode("utf-8", "replace")
        return f"{NGRAM_WORDS} words in a row are in eval item {self._grams[gram]}: {said}"


def _letters(words: bytes) -> bytes:
    return words.replace(b" ", b"")


def _runs(words: bytes, length: int) -> list[bytes]:
    """Every run of so many words, in order."""
    parts = words.split(b" ")
    return [b" ".join(parts[at : at + length]) for at in range(len(parts) - length + 1)]
