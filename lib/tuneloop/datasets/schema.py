"""What a dataset is: the request, the manifest that publishes it, one row of its shards.

A manifest names content, not a moment: `build_id` depends on the request and on the traces without
their times, so the same traces in two stores make the same dataset.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tuneloop import jsonl
from tuneloop.datasets.pointer import pointer_tokens
from tuneloop.traces.fast import StoredPayload, StoredStep
from tuneloop.traces.schema import JsonObject, Text

MAX_KEY_BYTES = 200
"""Object stores allow more, but a local file name ends at 255."""
DEFAULT_RECIPE = "trace_sft_v1"

_NAMESPACE = uuid.UUID("6f0f4d0e-9a55-5d0b-8a1c-2f7f6a3f1c55")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_KEY = re.compile(r"[A-Za-z0-9._-]+")
_TIME_CHARACTERS = len("2026-11-22T11:22:10.546379Z")
_TIME_BYTES = len('{"created_at":"",') + _TIME_CHARACTERS
"""What a row's line holds before the rest of its content."""


def _with_pointers(filters: dict[str, Any]) -> dict[str, Any]:
    for path in filters:
        try:
            pointer_tokens(path)
        except ValueError as e:
            raise ValueError(f"holds the path {path[:60]!r}, which {e}") from e
    return filters


def _with_microseconds(text: str) -> str:
    datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")  # raises ValueError on month 13
    return text


Filters = Annotated[JsonObject, AfterValidator(_with_pointers)]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
CheckedTimestamp = Annotated[Timestamp, AfterValidator(_with_microseconds)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Strategy = Literal["latest", "random"]


class TraceRow(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of a shard: a trace as it was when the dataset was built, steps ordered by `i`.

    Nothing is checked again but the shape: the store validated the trace, and a digest guards the
    shard. Fields stand in sorted order, so that encoding them as declared is canonical; values of
    meta stay the bytes they were, since msgspec spells some floats differently from what is
    published.
    """

    created_at: Annotated[
        str, msgspec.Meta(min_length=_TIME_CHARACTERS, max_length=_TIME_CHARACTERS)
    ]
    final_answer: str
    id: str
    meta: dict[str, msgspec.Raw] | None
    prompt: str
    steps: list[StoredStep]
    trace_version: str

    @property
    def step_contents(self) -> list[str]:
        """The texts of the steps, in order."""
        return [step.content for step in self.steps]

    def line(self) -> bytes:
        """The row as a shard holds it, canonical."""
        return jsonl.encode_line(self)


_payload_decoder = msgspec.json.Decoder(StoredPayload)


def row_of_payload(trace_id: str, created_at: str, payload: str | bytes) -> TraceRow:
    """The row of a stored trace: its canonical payload, with the steps in order."""
    stored = _payload_decoder.decode(payload)
    stored.steps.sort(key=attrgetter("i"))
    return TraceRow(
        created_at,
        stored.final_answer,
        trace_id,
        stored.meta,
        stored.prompt,
        stored.steps,
        stored.trace_version,
    )


class BuildRequest(BaseModel):
    """What to select from the store, and under which name to publish it.

    A filter is a path into `meta` and the JSON value that must stand there: true is not 1, 1 is
    1.0, an absent key is not null, a list or an object is compared as a whole. A path is a key of
    the top level, dots included, or, where it begins with `/`, a JSON Pointer (RFC 6901) such as
    `/model/name` or `/tags/0`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_name: Text = Field(min_length=1, max_length=128)
    dataset_version: Text = Field(min_length=1, max_length=64)
    recipe: str = DEFAULT_RECIPE
    instruction: Text | None = Field(default=None, min_length=1, max_length=1000)
    filters: Filters = {}
    limit: int = Field(default=100, ge=1, le=10_000_000)
    selection_strategy: Strategy = "latest"
    seed: Seed | None = None
    session_id: Text | None = Field(default=None, max_length=128)
    parent_dataset_id: Text | None = Field(default=None, max_length=256)
    training_run_id: Text | None = Field(default=None, max_length=128)
    provenance: JsonObject = {}
    """Whatever the caller wants to say about where the dataset comes from."""

    @property
    def dataset_key(self) -> str:
        """The dataset's folder. Two names can share one: the build then refuses the second."""
        return "-".join(
            _UNSAFE.sub("_", part) for part in (self.dataset_name, self.dataset_version)
        )


class DatasetStats(BaseModel):
    """Sizes of the traces in a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trace_count: int
    avg_step_count: float
    min_step_count: int
    max_step_count: int
    avg_total_chars: float
    """Mean of prompt, final answer and all steps together, in code points."""


class DatasetShard(BaseModel):
    """One file of rows, by content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^traces-\d{5}-of-\d{5}\.jsonl$")
    path: str = Field(pattern=r"^attempts/[0-9a-f]{32}/traces-\d{5}-of-\d{5}\.jsonl$")
    """Where it lies, relative to the dataset's folder."""
    rows: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    sha256: Sha256


class DatasetManifest(BaseModel):
    """A published dataset; written last and create-only, so it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    dataset_key: str
    build_id: str
    """uuid5 of everything that determines the rows and what an export makes of them."""
    dataset_name: str
    dataset_version: str
    created_at: CheckedTimestamp
    recipe: str
    """How a trace becomes prompt and response."""
    instruction: str | None
    """Put behind every prompt; null: the recipe's own."""
    seed: Seed
    """The request's, or one generated for it and kept here for every later stage."""
    filters: JsonObject
    selection_strategy: Strategy
    limit: int
    session_id: str | None
    parent_dataset_id: str | None
    training_run_id: str | None
    provenance: JsonObject = {}
    """The first build's; it names nothing, so another build's may differ."""
    trace_count: int = Field(ge=1)
    stats: DatasetStats
    content_sha256: Sha256
    """Of the rows in order, without `created_at`."""
    shards: tuple[DatasetShard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _counts_agree(self) -> DatasetManifest:
        rows = sum(shard.rows for shard in self.shards)
        if rows != self.trace_count:
            one = len(self.shards) == 1
            holder = f"{self.shards[0].name} has" if one else f"its {len(self.shards)} shards have"
            raise ValueError(f"trace_count is {self.trace_count} but {holder} {rows} rows")
        return self


class Content(NamedTuple):
    """What a selection turned out to hold."""

    sha256: str
    stats: DatasetStats


@dataclass(frozen=True)
class Selection:
    """Traces chosen for a dataset: how many, and a stream that can be read once."""

    count: int
    rows: Iterator[TraceRow]


class ContentHasher:
    """Digest and sizes of rows as they pass."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._sha256 = hashlib.sha256()
        self._count = self._steps = self._chars = self._most = 0
        self._least: int | None = None

    def add(self, row: TraceRow) -> bytes:
        """Take the next row, order counts; returns its line for the shard."""
        line = row.line()
        self._sha256.update(b"{")
        self._sha256.update(memoryview(line)[_TIME_BYTES:])
        steps = len(row.steps)
        self._count += 1
        self._steps += steps
        self._chars += len(row.prompt) + len(row.final_answer)
        self._chars += sum([len(step.content) for step in row.steps])
        self._most = max(self._most, steps)
        self._least = steps if self._least is None else min(self._least, steps)
        return line

    def content(self) -> Content:
        """What has passed; at least one row."""
        stats = DatasetStats(
            trace_count=self._count,
            avg_step_count=self._steps / self._count,
            min_step_count=self._least or 0,
            max_step_count=self._most,
            avg_total_chars=self._chars / self._count,
        )
        return Content(self._sha256.hexdigest(), stats)


def build_id(request: BuildRequest, seed: int, content_sha256: str) -> str:
    """Name a dataset by what determines it: no clock, no place."""
    identity = {
        "dataset_key": request.dataset_key,
        "recipe": request.recipe,
        "instruction": request.instruction,
        "seed": seed,
        "filters": request.filters,
        "selection_strategy": request.selection_strategy,
        "limit": request.limit,
        "content_sha256": content_sha256,
    }
    return str(uuid.uuid5(_NAMESPACE, jsonl.dump_line(identity).decode()))


def request_of(manifest: DatasetManifest) -> BuildRequest:
    """The request that a manifest answers, with its seed filled in."""
    return BuildRequest(**{name: getattr(manifest, name) for name in BuildRequest.model_fields})


def is_key(key: str) -> bool:
    """Whether a dataset can have this key: one plain folder name."""
    return key not in (".", "..") and len(key) <= MAX_KEY_BYTES and bool(_KEY.fullmatch(key))


def trace_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """The export record of format `trace`; what the store knows wins over what meta claims."""
    return {
        "id": row.id,
        "prompts": row.prompt,
        "trace_steps": row.step_contents,
        "final_answer": row.final_answer,
        "metadata": {
            **(row.meta or {}),
            "created_at": row.created_at,
            "trace_version": row.trace_version,
        },
    }
