"""Turn the traces of a shard into examples and exclusions, under the rules of an export.

Every trace becomes either an example or an exclusion and has one row in the outcome table. The
result depends only on the trace, the dataset's manifest and the rules, so any number of processes
can share the work. Duplicates are removed later, when the outcome tables of all shards exist.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from tuneloop import jsonl
from tuneloop.datasets.read import RowBlock
from tuneloop.datasets.schema import TraceRow
from tuneloop.datasets.text.minhash import BANDS, band_keys
from tuneloop.datasets.text.normalize import normalize_example, normalize_examples, words_of
from tuneloop.errors import DataError
from tuneloop.specs.export import ExportSpec
from tuneloop.training.conversation import Conversation
from tuneloop.training.export.decontamination import ContaminationIndex, conversation_text
from tuneloop.training.export.examples import ExampleBuilder
from tuneloop.training.export.exclusions import Exclusion, Split
from tuneloop.training.export.outcomes import CONTAMINATED, NO_KEY, TRUNCATED, Entry, duplicate_key
from tuneloop.training.prompt_templates import Draft
from tuneloop.training.schema import Reason, Refused, TrainingExample

CountTokens = Callable[[str, str], tuple[int, int]]
"""(prompt, response) -> (tokens before the model's first token, tokens that the loss covers)."""
CountConversation = Callable[[Conversation], tuple[int, int]]
"""Conversation -> (tokens that the loss does not cover, tokens that it covers) of its longest row.
Raises DataError if the model's chat template cannot write the conversation."""


Lengths = tuple[int, int, int | None, int | None]
"""Characters and tokens of prompt and response, in the order of `outcomes.LENGTHS`. The token
counts are None without a tokenizer."""


class _Limit(NamedTuple):
    """A maximum length of an example, for prompt and response together."""

    key: str
    """Name of the export option that sets the limit."""
    unit: str
    maximum: int
    column: int
    """Index of the prompt's length in `Lengths`; the response's length is the next item."""

    def prompt_length(self, lengths: Lengths) -> int:
        return lengths[self.column] or 0

    def total(self, lengths: Lengths) -> int:
        return (lengths[self.column] or 0) + (lengths[self.column + 1] or 0)


def _limits(rules: ExportSpec) -> tuple[_Limit, ...]:
    columns = {"max_length_characters": ("characters", 0), "max_length_tokens": ("tokens", 2)}
    return tuple(
        _Limit(key, unit, maximum, column)
        for key, (unit, column) in columns.items()
        if (maximum := getattr(rules, key)) is not None
    )


class _Made(msgspec.Struct, frozen=True, gc=False):
    """A drafted example with its rendered response and its lengths."""

    draft: Draft
    response: str
    lengths: Lengths
    dropped: int
    """Number of the trace's steps that were dropped to fit the length limit."""
    conversation: Conversation | UnsetType = UNSET

    def compared(self) -> tuple[str, str]:
        """Return prompt and response for comparisons with other examples and with eval sets."""
        if self.conversation is UNSET:
            return self.draft.prompt, self.response
        texts = [text for each in self.conversation.messages[:-1] for text in each.texts()]
        return "\n".join(texts), self.response

    def shared(self) -> bytes:
        """Return what many examples share, which no comparison but that for equality reads."""
        if self.conversation is UNSET:
            return b""
        return jsonl.encode_line([self.conversation.system or "", self.conversation.tools or ()])


class ShardExporter:
    """Exports one shard: call `add` with the rows in order, then read the attributes."""

    def __init__(
        self,
        builder: ExampleBuilder,
        rules: ExportSpec,
        contamination: ContaminationIndex | None,
        count_tokens: CountTokens | None,
        count_conversation: CountConversation | None = None,
    ) -> None:
        """Create an exporter without rows.

        Args:
            builder: builds examples with the dataset's recipe.
            rules: the rules of the export.
            contamination: index of the eval set; None disables the contamination check.
            count_tokens: counts tokens; None measures lengths in characters only.
            count_conversation: counts the tokens of conversations; None without a tokenizer.
        """
        self.entries: list[Entry] = []
        """Outcome of each row, for the outcome table."""
        self.exclusions: list[bytes] = []
        """Lines of exclusions.jsonl."""
        self._builder, self._rules = builder, rules
        self._contamination, self._count_tokens = contamination, count_tokens
        self._count_conversation = count_conversation
        self._limits = _limits(rules)
        self._wants_keys = rules.duplicates == "drop"
        self._wants_bands = rules.near_duplicates == "drop"
        self._compares = self._wants_keys or self._wants_bands or contamination is not None
        self._no_bands = (0,) * BANDS if self._wants_bands else ()

    def add(self, start: int, block: RowBlock) -> dict[Split, list[TrainingExample]]:
        """Export the next rows.

        Args:
            start: row number of the block's first row in the dataset, from 0.
            block: the rows. How the dataset is divided into blocks does not change the result.

        Returns:
            The examples by split; excluded traces have none.

        Raises:
            DataError: a trace breaks a rule that is set to `fail`.
        """
        made = [self._make(row) for row in block.rows]
        normalized = self._normalize_all(made)
        overlaps = self._find_overlaps(block, made, normalized)
        if self._limits:
            self._shorten_all(block, made, normalized)
        examples: dict[Split, list[TrainingExample]] = {"train": [], "validation": []}
        for number, row in enumerate(block.rows):
            one = made[number]
            if isinstance(one, Refused):
                self._refuse(start + number, row, one)
                continue
            split, overlap, dropped = self._split_of(row), overlaps[number], one.dropped
            key = duplicate_key(normalized[number] + one.shared()) if self._wants_keys else NO_KEY
            bands = band_keys(words_of(normalized[number])) if self._wants_bands else ()
            flags = (CONTAMINATED if overlap else 0) | (TRUNCATED if dropped else 0)
            self.entries.append(
                Entry(start + number, row.id, split, key, *one.lengths, flags, bands)
            )
            examples[split].append(
                self._builder.build(
                    row, one.draft.prompt, one.response, dropped, overlap, one.conversation
                )
            )
        return examples

    def _make(self, row: TraceRow) -> _Made | Refused:
        draft = self._builder.draft(row)
        if isinstance(draft, Refused):
            return draft
        try:
            return self._render(draft)
        except _NotRenderable as e:
            return Refused("not_renderable", str(e))

    def _render(self, draft: Draft, dropped: int = 0) -> _Made:
        """Render and measure a draft.

        Raises:
            _NotRenderable: the chat template cannot write its conversation.
        """
        response = self._builder.render_response(draft)
        conversation = self._builder.conversation(draft, response, self._rules.loss)
        if conversation is UNSET:
            return _Made(draft, response, self._measure(draft.prompt, response), dropped)
        return _Made(
            draft, response, self._measure_conversation(conversation), dropped, conversation
        )

    def _refuse(self, number: int, row: TraceRow, refused: Refused) -> None:
        tokens = None if self._count_tokens is None else 0
        self.entries.append(
            Entry(number, row.id, refused.reason, NO_KEY, 0, 0, tokens, tokens, 0, self._no_bands)
        )
        self.exclusions.append(exclusion_line(number, row.id, refused.reason, refused.detail))

    def _normalize_all(self, made: Sequence[_Made | Refused]) -> list[bytes]:
        """Normalize the examples for comparisons; returns an empty list if no rule compares."""
        if not self._compares:
            return []
        return normalize_examples(
            [("", "") if isinstance(one, Refused) else one.compared() for one in made]
        )

    def _find_overlaps(
        self, block: RowBlock, made: list[_Made | Refused], normalized: Sequence[bytes]
    ) -> Sequence[str | None]:
        """Find each example's overlap with the eval set, and refuse examples if the rules say so.

        Returns:
            A description of the overlap for each example, None for those without one.
        """
        if self._contamination is None:
            return [None] * len(made)
        conversations = {
            number: conversation_text(one.draft.context.earlier, block.rows[number].prompt)
            for number, one in enumerate(made)
            if isinstance(one, _Made) and one.draft.context and one.draft.context.earlier
        }
        overlaps = self._contamination.find_all(
            [row.prompt for row in block.rows], normalized, conversations
        )
        for number, overlap in enumerate(overlaps):
            if overlap is None or isinstance(made[number], Refused):
                continue
            if self._rules.contamination == "fail":
                raise DataError(
                    f"{block.place(number)}: trace {block.rows[number].id}: {overlap}, expected no"
                    " overlap with the eval set; set export.contamination to drop or report, or"
                    " remove the trace from the dataset"
                )
            if self._rules.contamination == "drop":
                made[number] = Refused("contaminated", overlap)
        return overlaps

    def _shorten_all(
        self, block: RowBlock, made: list[_Made | Refused], normalized: list[bytes]
    ) -> None:
        """Shorten every example that is over a limit, or refuse it."""
        for number, one in enumerate(made):
            if isinstance(one, Refused) or (limit := self._exceeded(one.lengths)) is None:
                continue
            place, row = block.place(number), block.rows[number]
            shortened = self._shorten(place, row, one.draft, one.lengths, limit)
            made[number] = shortened
            if isinstance(shortened, _Made) and self._compares:
                normalized[number] = normalize_example(*shortened.compared())

    def _exceeded(self, lengths: Lengths) -> _Limit | None:
        """Return the first limit that these lengths exceed; None if they keep all."""
        return next((limit for limit in self._limits if limit.total(lengths) > limit.maximum), None)

    def _measure(self, prompt: str, response: str) -> Lengths:
        if self._count_tokens is None:
            return len(prompt), len(response), None, None
        return len(prompt), len(response), *self._count_tokens(prompt, response)

    def _measure_conversation(self, conversation: Conversation) -> Lengths:
        """Measure what the loss does not cover, and what it covers."""
        other, trained = (
            sum(map(len, conversation.texts(trained=covered))) for covered in (False, True)
        )
        if self._count_conversation is None:
            if conversation.uses_tools():
                raise _NotRenderable(
                    "it uses tools, and a model with random weights has a chat template without"
                    " tools; set train.model to a model whose template writes tools"
                )
            return other, trained, None, None
        try:
            return other, trained, *self._count_conversation(conversation)
        except DataError as e:
            raise _NotRenderable(str(e)) from e

    def _shorten(
        self, place: str, row: TraceRow, draft: Draft, lengths: Lengths, limit: _Limit
    ) -> _Made | Refused:
        """Drop as few steps as needed to fit the limits, or return the reason to exclude the trace.

        Raises:
            DataError: `over_length` is `fail`.
        """
        found = f"{limit.total(lengths)} {limit.unit}, expected at most {limit.maximum}"
        if self._rules.over_length == "fail":
            raise DataError(
                f"{place}: trace {row.id}: {found}; raise export.{limit.key}, or set"
                " export.over_length to drop or truncate_steps"
            )
        for each in self._limits:
            length = each.prompt_length(lengths)
            if length >= each.maximum:
                detail = (
                    f"its prompt alone has {length} {each.unit}, expected fewer than {each.maximum}"
                )
                return Refused("no_trainable_tokens", detail)
        if self._rules.over_length == "drop":
            return Refused("over_length", found)

        def without(dropped: int) -> _Made:
            return self._render(without_middle(draft, dropped), dropped)

        def fits(dropped: int) -> bool:
            return self._exceeded(without(dropped).lengths) is None

        steps = len(draft.steps)
        dropped = bisect_left(range(steps + 1), True, lo=1, key=fits)
        # Tokens can merge where steps were cut out, so fewer steps are not always fewer tokens.
        while dropped <= steps and not fits(dropped):
            dropped += 1
        if dropped > steps:
            return Refused("over_length", f"{found}; without its steps it is still too long")
        return without(dropped)

    def _split_of(self, row: TraceRow) -> Split:
        fraction = self._rules.validation_fraction
        if not fraction:
            return "train"
        key: bytes | msgspec.Raw | None = None
        if self._rules.group_by is not None:
            key = (row.meta or {}).get(self._rules.group_by)
        return split_of(row.prompt.encode() if key is None else bytes(key), fraction)


class _NotRenderable(Exception):
    """A chat template cannot write a conversation."""


def exclusion_line(row: int, trace_id: str, reason: Reason, detail: str) -> bytes:
    """Encode one line of exclusions.jsonl."""
    return jsonl.encode_line(Exclusion(detail, reason, row, trace_id))


def split_of(group: bytes, validation_fraction: float) -> Split:
    """Assign a group of traces to a split by its hash, independently of all other traces."""
    digest = hashlib.blake2b(group, digest_size=8, usedforsecurity=False).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "validation" if share < validation_fraction else "train"


def without_middle(draft: Draft, dropped: int) -> Draft:
    """Drop this many steps from the middle; the first and the last steps matter most."""
    kept = len(draft.steps) - dropped
    head = -(-kept // 2)
    steps: Sequence[str] = [*draft.steps[:head], *draft.steps[len(draft.steps) - kept + head :]]
    return msgspec.structs.replace(draft, steps=steps)
