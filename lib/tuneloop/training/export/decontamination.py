"""Detect training examples that contain prompts of the eval set.

Texts are compared as words, so that case, punctuation and white space make no difference. An
example is contaminated if its trace's prompt equals an eval prompt, or if any 13 consecutive words
of the example are in an eval prompt. Equal prompts also have the same operators, signs and decimal
points beside their digits: `13 + 4` equals `13+4`, and not `1.3 - 4`. Eval prompts with fewer
than 13 words are only compared as a whole, because short phrases occur everywhere.

An eval item with earlier turns is compared with its whole conversation: a trace is contaminated if
its prompt and earlier turns equal those of the item. System texts and tools are not compared,
because many conversations share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ahocorasick_rs import BytesAhoCorasick, Implementation

from tuneloop.datasets.text.normalize import (
    letters_of_all,
    normalize_all,
    normalize_words,
    words_of,
)
from tuneloop.datasets.text.terms import normalize_terms
from tuneloop.training.conversation import Message

NGRAM_WORDS = 13
"""Consecutive words that count as an overlap; GPT-3 and lm-eval use the same number."""
ANCHOR_WORDS = 4
"""Words per anchor. The search for n-grams first looks for these shorter runs of words."""
_ANCHOR_EVERY = NGRAM_WORDS - ANCHOR_WORDS + 1


class ContaminationIndex:
    """An index of an eval set's prompts.

    Nearly all examples are clean, so the search starts with a fast filter that compares only the
    letters and digits of many examples at once. The exact comparison by words runs on the examples
    that pass the filter.
    """

    def __init__(
        self, prompts: Mapping[str, str], conversations: Mapping[str, str] | None = None
    ) -> None:
        """Build the index.

        Args:
            prompts: id -> prompt of the items that have no earlier turns.
            conversations: id -> text of the other items, from `conversation_text`.
        """
        self._prompts, self._conversations = _Exact("prompt"), _Exact("conversation")
        self._grams: dict[bytes, str] = {}
        anchors: dict[bytes, None] = {}
        exact = [(self._prompts, *each) for each in prompts.items()]
        exact += [(self._conversations, *each) for each in (conversations or {}).items()]
        for index, item, text in exact:
            words = normalize_words(text)
            index.add(text, words, item)
            grams = _runs(words, NGRAM_WORDS)
            for gram in grams:
                self._grams.setdefault(gram, item)
            if grams:
                # Every 13 consecutive words contain at least one of these anchors.
                anchors.update(dict.fromkeys(_runs(words, ANCHOR_WORDS)[::_ANCHOR_EVERY]))
        # The anchors are few and short, so the automaton fits in the processor's cache.
        self._anchors = (
            BytesAhoCorasick(
                list({_letters(anchor) for anchor in anchors}), implementation=Implementation.DFA
            )
            if anchors
            else None
        )

    def find(self, trace_prompt: str, normalized: bytes) -> str | None:
        """Find an eval item that an example overlaps.

        Args:
            trace_prompt: the trace's own prompt, without the dataset's instruction.
            normalized: the example's normalized text, from `normalize_example`.

        Returns:
            A description of the overlap, or None if there is none.
        """
        return self.find_all([trace_prompt], [normalized])[0]

    def find_all(
        self,
        trace_prompts: Sequence[str],
        normalized: Sequence[bytes],
        conversations: Mapping[int, str] | None = None,
    ) -> list[str | None]:
        """Apply `find` to many examples at once, which is faster.

        Args:
            trace_prompts: prompt of each trace.
            normalized: normalized text of each example.
            conversations: number of an example with earlier turns -> their text with the prompt,
                from `conversation_text`.
        """
        found = self._prompts.find_all(trace_prompts)
        if conversations:
            numbers, texts = zip(*conversations.items(), strict=True)
            for number, overlap in zip(numbers, self._conversations.find_all(texts), strict=True):
                found[number] = found[number] or overlap
        examples = letters_of_all(normalized)
        if self._holds_an_anchor(b" ".join(examples)):
            for number, letters in enumerate(examples):
                if found[number] is None and self._holds_an_anchor(letters):
                    found[number] = self._find_gram(words_of(normalized[number]))
        return found

    def _holds_an_anchor(self, letters: bytes) -> bool:
        return self._anchors is not None and bool(self._anchors.find_matches_as_indexes(letters))

    def _find_gram(self, words: bytes) -> str | None:
        gram = next((run for run in _runs(words, NGRAM_WORDS) if run in self._grams), None)
        if gram is None:
            return None
        said = gram.decode("utf-8", "replace")
        return f"{NGRAM_WORDS} words in a row are in eval item {self._grams[gram]}: {said}"


class _Exact:
    """Texts of eval items that are compared as a whole."""

    def __init__(self, what: str) -> None:
        """Start without texts; `what` is the noun in descriptions of an overlap."""
        self._what = what
        self._items: dict[bytes, str] = {}
        self._letters: set[bytes] = set()

    def add(self, text: str, words: bytes, item: str) -> None:
        self._items.setdefault(normalize_terms(text), item)
        self._letters.add(_letters(words))

    def find_all(self, texts: Sequence[str]) -> list[str | None]:
        if not self._letters:
            return [None] * len(texts)
        letters = letters_of_all(normalize_all(texts))
        pairs = zip(texts, letters, strict=True)
        return [self._find(text) if each in self._letters else None for text, each in pairs]

    def _find(self, text: str) -> str | None:
        item = self._items.get(normalize_terms(text))
        return item and f"its {self._what} is that of eval item {item}"


def conversation_text(earlier: Iterable[Message], prompt: str) -> str:
    """Return the text of earlier turns and the prompt after them, for comparisons."""
    return "\n".join([*(text for each in earlier for text in each.texts()), prompt])


def _letters(words: bytes) -> bytes:
    return words.replace(b" ", b"")


def _runs(words: bytes, length: int) -> list[bytes]:
    """List all runs of `length` consecutive words, in order."""
    parts = words.split(b" ")
    return [b" ".join(parts[at : at + length]) for at in range(len(parts) - length + 1)]
