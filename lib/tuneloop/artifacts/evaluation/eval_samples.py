"""`samples.jsonl`: every answer of an evaluation with its scores; its classes, writer and reader.

The file is all that a report needs. It holds rows of four kinds, in this order: the eval sets, the
models, the items of the sets, and the samples. A row's key `kind` gives its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tuneloop.errors import DataError

State = Literal["correct", "wrong", "no_answer", "truncated", "error"]
"""How an answer was judged.

`no_answer`: no answer could be extracted from the text. `truncated`: the same, and generation had
reached its token limit. `error`: the scorer or the generation failed, so nothing is known about the
answer. Each of them counts in every denominator.
"""
STATES: tuple[State, ...] = ("correct", "wrong", "no_answer", "truncated", "error")
Weight = Literal["required", "guarded", "informative"]
"""What a set means for the verdict. `required`: the tuned model must be better on it. `guarded`: it
must not be worse. `informative`: shown, without effect."""


class Stopping(Struct, frozen=True, kw_only=True):
    """How the evaluation of a set could stop before its last item."""

    asked: int
    """Items that were asked: the first of the random order."""
    candidate: int
    """Number of the candidate in the ledger of `tuneloop gate` for which the evidence had to be
    enough."""
    error: float
    """Probability of a wrong decision that this candidate is allowed."""


class EvalSet(Struct, frozen=True, kw_only=True, tag_field="kind", tag="set"):
    """One eval set."""

    name: str
    """Name of the set in this evaluation; unique."""
    version: str | None = None
    """Version that the set states."""
    sha256: str
    """Digest of the file."""
    scorer: str | dict[str, Any]
    """Scorer of items that name none: a name, an object with `kind` and options, or the name of a
    Python file."""
    scorer_sha256: str | UnsetType = UNSET
    """Digest of that file, which the evaluation has kept as its output `scorers/<sha256>.py`;
    unset without a file."""
    weight: Weight = "required"
    samples: int = 1
    """Samples for each item and model."""
    stopping: Stopping | UnsetType = UNSET
    """Unset: all items were asked, whatever the answers were."""


class Model(Struct, frozen=True, kw_only=True, tag_field="kind", tag="model"):
    """One evaluated model, asked with one kind of prompt."""

    name: str
    """Name in this evaluation: `base`, `tuned`, `base (5 examples)`, or the name of a baseline."""
    digest: str
    """Digest of the model's weights and tokenizer."""
    run: str | None = None
    """Run that trained it; null for a model that no run trained."""
    examples: int = 0
    """Training examples in the prompt, as earlier turns."""
    step: int | UnsetType = UNSET
    """Step of the training of the tuned model, for a checkpoint of it; unset for other models."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a model is asked besides the last message of the user, all of it as JSON values."""

    system: str | None = None
    """System message of the conversation; null for none."""
    messages: tuple[dict[str, Any], ...] = ()
    """Messages before the prompt, oldest first, in the form of a trace's `messages`."""
    tools: tuple[dict[str, Any], ...] = ()
    """Definitions of tools, in the form of a trace's `tools`."""


class Item(Struct, frozen=True, kw_only=True, tag_field="kind", tag="item"):
    """One question, as the scorers and the report need it."""

    set: str
    id: str
    """Identifier; unique in its set."""
    prompt: str
    """The last message of the user."""
    system: str | UnsetType = UNSET
    """System message of the conversation; unset without one."""
    messages: tuple[dict[str, Any], ...] | UnsetType = UNSET
    """Messages before the prompt, oldest first; unset without any."""
    tools: tuple[dict[str, Any], ...] | UnsetType = UNSET
    """Definitions of the tools that the model may call; unset without any."""
    bare_answer: bool | UnsetType = UNSET
    """True: the whole response is the answer, as in a chat. Unset or false: the response has the
    form of the prompt template."""
    expected_answer: str
    accepted_answers: tuple[str, ...] = ()
    category: str
    difficulty: str | None = None
    case_sensitive: bool = False
    group: str | None = None
    """Items of one group are not independent, such as questions on one text; statistics resample
    them together. Null: the item is independent."""
    scorer: str | dict[str, Any] | None = None
    """The item's own scorer: a name, or an object with `kind` and options. Null: the set's."""
    meta: dict[str, Any] = {}
    """Keys that the item has in addition."""
    order: int | UnsetType = UNSET
    """Place in the random order, from 0, if the evaluation of the set could stop early."""

    @property
    def context(self) -> Context | None:
        """What is asked besides the prompt; None if the prompt is all of it."""
        if all(each is UNSET for each in (self.system, self.messages, self.tools)):
            return None
        return Context(
            system=None if self.system is UNSET else self.system,
            messages=() if self.messages is UNSET else self.messages,
            tools=() if self.tools is UNSET else self.tools,
        )


class Judgement(Struct, frozen=True):
    """A score of one answer, with its reason."""

    state: State
    value: float
    """Credit from 0 to 1; 1 is fully correct."""
    answer: str | None = None
    """The extracted answer as the model wrote it."""
    matched: str | None = None
    """The accepted spelling that the answer equals; null unless correct."""
    explanation: str | None = None
    """Reason for the judgement."""


class Sample(Struct, frozen=True, kw_only=True, tag_field="kind", tag="sample"):
    """One answer of one model to one item."""

    set: str
    item: str
    """Identifier of the item."""
    model: str
    sample: int = 0
    """Number of the sample, from 0."""
    text: str
    """Generated text, without the stop token."""
    tokens: int
    """Generated tokens, without the stop token."""
    hit_limit: bool = False
    """Whether generation reached its maximum number of tokens before a stop token."""
    score: Judgement
    """The strict score: the answer is read from where the prompt asks for it."""
    lenient: Judgement | UnsetType = UNSET
    """The lenient score: the answer is searched in the whole text. Unset: equal to the strict."""

    @property
    def lenient_score(self) -> Judgement:
        """The lenient score."""
        return self.score if self.lenient is UNSET else self.lenient


def scorer_file(sha256: str) -> str:
    """Return the name of the output that holds a scorer that a user wrote."""
    return f"scorers/{sha256}.py"


Row = EvalSet | Model | Item | Sample


@dataclass(frozen=True)
class EvalSamples:
    """The content of the file."""

    sets: Mapping[str, EvalSet]
    """Name -> set, in the order of the spec."""
    models: Mapping[str, Model]
    """Name -> model; the base model first."""
    items: Mapping[tuple[str, str], Item]
    """(set, id) -> item, in the order of the sets."""
    samples: tuple[Sample, ...]
    """All samples, in the order of the file."""

    def was_asked(self, item: Item) -> bool:
        """Return whether an item was asked; one that was not has no answers, and none is missing.

        Raises:
            DataError: the item has no place in the random order of its set.
        """
        stopping = self.sets[item.set].stopping
        if stopping is UNSET:
            return True
        if item.order is UNSET:
            raise DataError(
                f"samples: item {item.id!r} of the set {item.set} has no `order`, expected one,"
                " because the evaluation of the set could stop early; run the eval stage again"
            )
        return item.order < stopping.asked


_encoder = msgspec.json.Encoder(order="sorted")
_decode_row = msgspec.json.Decoder(Row).decode


def dump_row(row: Row) -> bytes:
    """Serialise one row, with a line end; equal rows give equal bytes."""
    return _encoder.encode(row) + b"\n"


def dump_samples(found: EvalSamples) -> Iterator[bytes]:
    """Serialise all rows in the order of the file."""
    yield from map(dump_row, found.sets.values())
    yield from map(dump_row, found.models.values())
    yield from map(dump_row, found.items.values())
    yield from map(dump_row, found.samples)


def load_samples(lines: Iterable[bytes], place: str) -> EvalSamples:
    """Read and validate a whole file.

    Args:
        lines: its lines, with or without line ends.
        place: path or URL of the file, for error messages.

    Raises:
        DataError: a row is not valid, or it names a set, a model or an item that no row before it
            has.
    """
    sets: dict[str, EvalSet] = {}
    models: dict[str, Model] = {}
    items: dict[tuple[str, str], Item] = {}
    samples: list[Sample] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = _decode_row(line)
            if isinstance(row, Sample):
                _known(items, (row.set, row.item), "item")
                _known(models, row.model, "model")
                samples.append(row)
            elif isinstance(row, Item):
                _known(sets, row.set, "set")
                _add(items, (row.set, row.id), row, "item")
            elif isinstance(row, Model):
                _add(models, row.name, row, "model")
            else:
                _add(sets, row.name, row, "set")
        except (msgspec.DecodeError, ValueError) as e:
            raise DataError(
                f"{place}:{number}: not a row of samples: {e}; was it made by another version of"
                " tuneloop? run the eval stage again"
            ) from e
    return EvalSamples(sets, models, items, tuple(samples))


def _known(rows: Mapping[Any, Any], key: object, what: str) -> None:
    if key not in rows:
        raise ValueError(f"there is no {what} {key!r} above it")


def _add(rows: dict[Any, Any], key: object, row: object, what: str) -> None:
    if key in rows:
        raise ValueError(f"{what} {key!r} is there twice")
    rows[key] = row
