"""One trace after the other to examples, under the rules of an export.

One rule: every trace that comes in goes out as an example or as an exclusion, and stands in the
ledger either way. What a trace becomes depends on itself, the dataset's manifest and the rules
alone, so any number of processes can share the work; only duplicates wait for the whole ledger.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tuneloop import jsonl
from tuneloop.datasets.schema import TraceRow
from tuneloop.errors import DataError
from tuneloop.specs import ExportSpec
from tuneloop.training.accounts import Exclusion, Reason, Refused, Split
from tuneloop.training.contamination import ContaminationIndex
from tuneloop.training.examples import ExampleBuilder
from tuneloop.training.ledger import CONTAMINATED, NO_KEY, TRUNCATED, Entry, duplicate_key
from tuneloop.training.near import BANDS, band_keys
from tuneloop.training.normalise import fold_example, words_of
from tuneloop.training.recipes import Draft
from tuneloop.training.schema import TrainingExample

CountTokens = Callable[[str, str], tuple[int, int]]
"""(prompt, response) -> tokens before the model's first, and tokens the loss covers."""


Lengths = tuple[int, int, int | None, int | None]
"""Characters and tokens of prompt and response, as in `ledger.LENGTHS`."""


class _Made(NamedTuple):
    """An example, and what the ledger wants to know of it."""

    example: TrainingExample
    lengths: Lengths
    flags: int
    folded: bytes
    """Its text for comparisons; empty where nothing is compared."""


class ShardExporter:
    """Makes the files of one shard: feed it the rows in order, then take what it gathered."""

    def __init__(
        self,
        builder: ExampleBuilder,
        rules: ExportSpec,
        contamination: ContaminationIndex | None,
        count_tokens: CountTokens | None,
    ) -> None:
        """Start with no rows.

        Args:
            builder: makes examples by the dataset's recipe.
            rules: the export's.
            contamination: the eval set to keep out; None: it is not looked for.
            count_tokens: None: lengths are characters alone.
        """
        self.entries: list[Entry] = []
        """What became of each row."""
        self.exclusions: list[bytes] = []
        """Lines of exclusions.jsonl."""
        self._builder, self._rules = builder, rules
        self._contamination, self._count_tokens = contamination, count_tokens
        self._limit = rules.max_length
        self._wants_keys = rules.duplicates == "drop"
        self._wants_bands = rules.near_duplicates == "drop"
        self._compares = self._wants_keys or self._wants_bands or contamination is not None
        self._no_bands = (0,) * BANDS if self._wants_bands else ()

    def add(self, number: int, place: str, row: TraceRow) -> tuple[Split, TrainingExample] | None:
        """Take the next row.

        Args:
            number: which row of the dataset it is, from 0.
            place: where it stands, for an error.
            row: the trace.

        Returns:
            The example and where it goes, or None where the trace is excluded.

        Raises:
            DataError: the rules say `fail` and this trace breaks them.
        """
        made = self._make(place, row)
        if isinstance(made, Refused):
            tokens = None if self._count_tokens is None else 0
            self.entries.append(
                Entry(number, row.id, made.reason, NO_KEY, 0, 0, tokens, tokens, 0, self._no_bands)
            )
            self.exclusions.append(exclusion_line(number, row.id, made.reason, made.detail))
            return None
        folded = made.folded
        key = duplicate_key(folded) if self._wants_keys else NO_KEY
        bands = band_keys(words_of(folded)) if self._wants_bands else ()
        split = self._split_of(row)
        self.entries.append(Entry(number, row.id, split, key, *made.lengths, made.flags, bands))
        return split, made.example

    def _make(self, place: str, row: TraceRow) -> _Made | Refused:
        draft = self._builder.draft(row)
        if isinstance(draft, Refused):
            return draft
        response = self._builder.render_response(draft)
        folded = fold_example(draft.prompt, response) if self._compares else b""
        overlap = self._find_overlap(place, row, folded)
        if overlap is not None and self._rules.contamination == "drop":
            return Refused("contaminated", overlap)
        flags, dropped = CONTAMINATED if overlap else 0, 0
        lengths = self._measure(draft.prompt, response)
        if self._limit is not None and _total(lengths) > self._limit:
            shortened = self._shorten(place, row, draft, lengths)
            if isinstance(shortened, Refused):
                return shortened
            dropped = len(draft.steps) - len(shortened.steps)
            response = self._builder.render_response(shortened)
            lengths = self._measure(draft.prompt, response)
            folded = fold_example(draft.prompt, response) if self._compares else b""
            flags |= TRUNCATED
        example = self._builder.build(row, draft.prompt, response, dropped, overlap)
        return _Made(example, lengths, flags, folded)

    def _find_overlap(self, place: str, row: TraceRow, folded: bytes) -> str | None:
        if self._contamination is None:
            return None
        overlap = self._contamination.find(row.prompt, folded)
        if overlap is not None and self._rules.contamination == "fail":
            raise DataError(
                f"{place}: trace {row.id}: {overlap}, expected no overlap with the eval set;"
                " set export.contamination to drop or report, or mend the dataset"
            )
        return overlap

    def _measure(self, prompt: str, response: str) -> Lengths:
        if self._count_tokens is None:
            return len(prompt), len(response), None, None
        return len(prompt), len(response), *self._count_tokens(prompt, response)

    def _shorten(
        self,
        place: str,
        row: TraceRow,
        draft: Draft,
        lengths: Lengths,
    ) -> Draft | Refused:
        """The draft with as few steps gone as let it fit, or why it cannot be kept."""
        limit, unit = self._limit or 0, "characters" if self._count_tokens is None else "tokens"
        found = f"{_total(lengths)} {unit}, expected at most {limit}"
        if self._rules.over_length == "fail":
            raise DataError(
                f"{place}: trace {row.id}: {found}; raise export.max_length, or set"
                " export.over_length to drop or truncate_steps"
            )
        prompt_length = lengths[0] if lengths[2] is None else lengths[2]
        if prompt_length >= limit:
            return Refused("no_trainable_tokens", f"its prompt alone has {prompt_length} {unit},"
                           f" and {limit} is the limit")  # fmt: skip
        if self._rules.over_length == "drop":
            return Refused("over_length", found)

        def fits(dropped: int) -> bool:
            shorter = without_middle(draft, dropped)
            response = self._builder.render_response(shorter)
            return _total(self._measure(draft.prompt, response)) <= limit

        steps = len(draft.steps)
        dropped = bisect_left(range(steps + 1), True, lo=1, key=fits)
        # Tokens may merge across a seam, so that fewer steps are not always fewer tokens.
        while dropped <= steps and not fits(dropped):
            dropped += 1
        if dropped > steps:
            return Refused("over_length", f"{found}; without its steps it is still too long")
        return without_middle(draft, dropped)

    def _split_of(self, row: TraceRow) -> Split:
        fraction = self._rules.validation_fraction
        if not fraction:
            return "train"
        key: bytes | msgspec.Raw | None = None
        if self._rules.group_by is not None:
            key = (row.meta or {}).get(self._rules.group_by)
        return split_of(row.prompt.encode() if key is None else bytes(key), fraction)


def exclusion_line(row: int, trace_id: str, reason: Reason, detail: str) -> bytes:
    """One line of exclusions.jsonl."""
    return jsonl.encode_line(Exclusion(detail, reason, row, trace_id))


def split_of(group: bytes, validation_fraction: float) -> Split:
    """Where a group of traces goes: by its hash alone, so that no other trace can move it."""
    digest = hashlib.blake2b(group, digest_size=8, usedforsecurity=False).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "validation" if share < validation_fraction else "train"


def without_middle(draft: Draft, dropped: int) -> Draft:
    """The draft without so many of its middle steps: how it begins and ends says most."""
    kept = len(draft.steps) - dropped
    head = -(-kept // 2)
    steps: Sequence[str] = [*draft.steps[:head], *draft.steps[len(draft.steps) - kept + head :]]
    return draft._replace(steps=steps)


def _total(lengths: Lengths) -> int:
    prompt, response, prompt_tokens, response_tokens = lengths
    if prompt_tokens is None or response_tokens is None:
        return prompt + response
    return prompt_tokens + response_tokens
