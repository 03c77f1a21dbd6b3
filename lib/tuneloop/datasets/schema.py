"""The schema of datasets: the build request, the manifest, and the rows of shards.

`build_id` depends on the request and on the traces, but not on any time. Two stores with the same
traces therefore build the same dataset.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator

from tuneloop import jsonl
from tuneloop.datasets.pointer import pointer_tokens
from tuneloop.datasets.selection.account import SelectionAccount
from tuneloop.datasets.selection.spec import SelectionSpec
from tuneloop.storage.sealed import without_seal
from tuneloop.traces.fast import StoredPayload, StoredStep, Unset
from tuneloop.traces.schema import CHAT_STEPS, CHAT_VERSION, JsonObject, Text

MAX_KEY_BYTES = 200
"""Maximum length of a dataset key; local file systems allow file names of 255 bytes."""
DEFAULT_RECIPE = "trace_sft_v1"

_NAMESPACE = uuid.UUID("6f0f4d0e-9a55-5d0b-8a1c-2f7f6a3f1c55")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_KEY = re.compile(r"[A-Za-z0-9._-]+")
_TIME_CHARACTERS = len("2026-11-22T11:22:10.546379Z")
_TIME_BYTES = len('{"created_at":"",') + _TIME_CHARACTERS
"""Length of the creation time at the start of a row's line, which the content digest omits."""


def _with_pointers(filters: dict[str, Any]) -> dict[str, Any]:
    for path in filters:
        try:
            pointer_tokens(path)
        except ValueError as e:
            raise ValueError(f"holds the path {path[:60]!r}, which {e}") from e
    return filters


def _with_microseconds(text: str) -> str:
    datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")  # Raises ValueError for a month 13.
    return text


Filters = Annotated[JsonObject, AfterValidator(_with_pointers)]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
CheckedTimestamp = Annotated[Timestamp, AfterValidator(_with_microseconds)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Strategy = Literal["latest", "random"]
EVALUATION = "evaluation"
"""`meta.source` of traces that an evaluation has made; builds leave them out unless asked."""


def _is_unset(value: Any) -> bool:
    return not value


class TraceRow(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """One line of a shard: a trace at the time of the build, with its steps sorted by `i`.

    Only the shape is validated here, because the store validated the trace and a digest protects
    the shard. The fields are sorted, which makes the JSON canonical. The values of meta and the
    fields of trace version 1.1 are kept as raw bytes, because msgspec would write some floats
    differently.
    """

    created_at: Annotated[
        str, msgspec.Meta(min_length=_TIME_CHARACTERS, max_length=_TIME_CHARACTERS)
    ]
    final_answer: str
    id: str
    labels: Unset = UNSET
    messages: Unset = UNSET
    meta: dict[str, msgspec.Raw] | None
    prompt: str
    reward: Unset = UNSET
    steps: list[StoredStep]
    system: str | UnsetType = UNSET
    tools: Unset = UNSET
    trace_version: str

    @property
    def step_contents(self) -> list[str]:
        """Return the contents of the steps, in order."""
        return [step.content for step in self.steps]

    def line(self) -> bytes:
        """Encode the row as one line of a shard, in canonical JSON."""
        return jsonl.encode_line(self)


_payload_decoder = msgspec.json.Decoder(StoredPayload)


def row_of_payload(trace_id: str, created_at: str, payload: str | bytes) -> TraceRow:
    """Convert a stored trace to a row, with the steps sorted.

    Args:
        trace_id: id of the trace.
        created_at: creation time of the trace, from `utc_text`.
        payload: the stored trace as canonical JSON.
    """
    stored = _payload_decoder.decode(payload)
    stored.steps.sort(key=attrgetter("i"))
    return TraceRow(
        created_at=created_at,
        final_answer=stored.final_answer,
        id=trace_id,
        labels=stored.labels,
        messages=stored.messages,
        meta=stored.meta,
        prompt=stored.prompt,
        reward=stored.reward,
        steps=stored.steps,
        system=stored.system,
        tools=stored.tools,
        trace_version=stored.trace_version,
    )


class BuildRequest(BaseModel):
    """Which traces to select from the store, and the name under which to publish them.

    A filter is a path into `meta` and the JSON value required there. In comparisons true differs
    from 1, 1 equals 1.0, an absent key differs from null, and lists and objects are compared as a
    whole. A path that begins with `/` is a JSON Pointer (RFC 6901) such as `/model/name` or
    `/tags/0`; any other path is the name of one top-level key, which may contain dots.
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
    """Any information about the origin of the dataset; kept in the manifest."""
    include_evaluation: StrictBool = False
    """Whether traces with the source `evaluation`, which are answers of evaluated models, may be
    selected. A filter on this source also asks for them."""
    selection: SelectionSpec | None = None
    """Rules on the quality of traces; null selects by filters, strategy and limit alone."""

    @property
    def wants_evaluation(self) -> bool:
        """Return whether traces of evaluations may be selected."""
        by_filter = EVALUATION in (self.filters.get("source"), self.filters.get("/source"))
        where = None if self.selection is None else self.selection.where.get("source")
        by_rule = where is not None and EVALUATION in (where.any_of or ())
        return self.include_evaluation or by_filter or by_rule

    @property
    def dataset_key(self) -> str:
        """Return the key, which is the name of the dataset's folder.

        Different names can give the same key; the build then refuses the second dataset.
        """
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
    """One file of rows, with its size and digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^traces-\d{5}-of-\d{5}\.jsonl$")
    path: str = Field(pattern=r"^attempts/[0-9a-f]{32}/traces-\d{5}-of-\d{5}\.jsonl$")
    """Path relative to the dataset's folder."""
    rows: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    sha256: Sha256


class DatasetManifest(BaseModel):
    """The manifest of a published dataset. It is written last, and never overwritten."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    dataset_key: str
    build_id: str
    """uuid5 of the request, the seed and the content: all that determines rows and examples."""
    dataset_name: str
    dataset_version: str
    created_at: CheckedTimestamp
    recipe: str
    """Name of the recipe that turns a trace into prompt and response."""
    instruction: str | None
    """Text appended to every prompt; null appends nothing."""
    seed: Seed
    """Seed from the request, or a generated one; later stages use it too."""
    filters: JsonObject
    selection_strategy: Strategy
    limit: int
    session_id: str | None
    parent_dataset_id: str | None
    training_run_id: str | None
    provenance: JsonObject = {}
    """Provenance of the first build. It is not part of `build_id`; a later request may differ."""
    include_evaluation: bool = Field(default=False, exclude_if=_is_unset)
    """Whether traces of evaluations could be selected. It is not part of `build_id`, because the
    content is."""
    selection: SelectionSpec | None = Field(default=None, exclude_if=_is_unset)
    """Rules on the quality of traces."""
    account: SelectionAccount | None = Field(default=None, exclude_if=_is_unset)
    """What each rule of the selection removed; null in datasets of earlier versions."""
    trace_count: int = Field(ge=1)
    stats: DatasetStats
    content_sha256: Sha256
    """SHA-256 of the rows in order, without `created_at`."""
    shards: tuple[DatasetShard, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_seal(cls, value: Any) -> Any:
        # `read.parse_manifest` checks it last, because every other error says more.
        return without_seal(value)

    @model_validator(mode="after")
    def _counts_agree(self) -> DatasetManifest:
        rows = sum(shard.rows for shard in self.shards)
        if rows != self.trace_count:
            one = len(self.shards) == 1
            holder = f"{self.shards[0].name} has" if one else f"its {len(self.shards)} shards have"
            raise ValueError(f"trace_count is {self.trace_count} but {holder} {rows} rows")
        return self


class Content(NamedTuple):
    """Digest and sizes of the selected rows."""

    sha256: str
    stats: DatasetStats


@dataclass(frozen=True)
class Selection:
    """Traces selected for a dataset."""

    count: int
    """Number of rows."""
    rows: Iterator[TraceRow]
    """The rows in order; can be read once."""
    account: SelectionAccount | None = None
    """What each rule removed."""
    read_numbers: Callable[[], array[int]] | None = None
    """Reads the number of each row in the store, in order; None if the rows are of no store."""


class ContentHasher:
    """Computes digest and sizes of a stream of rows."""

    def __init__(self) -> None:
        """Create a hasher without rows."""
        self._sha256 = hashlib.sha256()
        self._count = self._steps = self._chars = self._most = 0
        self._least: int | None = None

    def add(self, row: TraceRow) -> bytes:
        """Add the next row; returns its line for the shard. The order of rows matters."""
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
        """Return digest and sizes of the rows so far; there must be at least one."""
        stats = DatasetStats(
            trace_count=self._count,
            avg_step_count=self._steps / self._count,
            min_step_count=self._least or 0,
            max_step_count=self._most,
            avg_total_chars=self._chars / self._count,
        )
        return Content(self._sha256.hexdigest(), stats)


def build_id(request: BuildRequest, seed: int, content_sha256: str) -> str:
    """Compute the build id from everything that determines the rows and the examples."""
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
    if request.selection is not None:
        rules = request.selection.model_dump(mode="json", exclude_defaults=True)
        identity["selection"] = rules
    return str(uuid.uuid5(_NAMESPACE, jsonl.dump_line(identity).decode()))


def request_of(manifest: DatasetManifest) -> BuildRequest:
    """Reconstruct the build request of a manifest, with the seed that was used."""
    return BuildRequest(**{name: getattr(manifest, name) for name in BuildRequest.model_fields})


def is_key(key: str) -> bool:
    """Return whether a dataset key is valid, which means that it is a plain folder name."""
    return key not in (".", "..") and len(key) <= MAX_KEY_BYTES and bool(_KEY.fullmatch(key))


def trace_of_row(row: TraceRow) -> dict[str, Any]:
    """Return the trace of a row as a JSON object, without the store's id and time."""
    trace: dict[str, Any] = json.loads(row.line())
    del trace["id"], trace["created_at"]
    return trace


def trace_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the export format `trace`; the store's values win over keys of meta.

    A trace of version 1.1 also has those of its fields that version 1.0 does not have: `system`,
    `messages`, `tools`, `reward`, `labels`, and `steps` if one of them is not reasoning.
    """
    return {
        **_chat_fields(row),
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


def _chat_fields(row: TraceRow) -> dict[str, Any]:
    names = ("labels", "messages", "reward", "system", "tools")
    found = {name: value for name in names if (value := getattr(row, name)) is not UNSET}
    if row.trace_version == CHAT_VERSION and any(step.type in CHAT_STEPS for step in row.steps):
        found["steps"] = row.steps
    return found
