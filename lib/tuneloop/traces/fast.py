"""Fast msgspec versions of the trace schema, for code that handles millions of traces.

`SentTrace` accepts a subset of what `schema.ReasoningTrace` accepts, with the same result. Callers
must pass input that `SentTrace` refuses to `ReasoningTrace`, which may accept it or explain the
problem.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tuneloop.traces.schema import (
    CHAT_VERSION,
    MAX_NAME_CHARACTERS,
    MAX_STEP_CHARACTERS,
    MAX_STEPS,
    MAX_TEXT_CHARACTERS,
    MAX_TOOL_NAME_CHARACTERS,
    STEP_INDEX_LIMIT,
)

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
_ToolName = Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_NAME_CHARACTERS)]
Unset = Raw | UnsetType
"""A field of trace version 1.1 as raw JSON; UNSET if the trace does not have it."""


class SentStep(Struct, frozen=True, gc=False, kw_only=True):
    """One step of a request; the fields are in the order of canonical JSON."""

    call_id: _ToolName | UnsetType = UNSET
    content: Annotated[str, Meta(min_length=1, max_length=MAX_STEP_CHARACTERS)]
    i: Annotated[int, Meta(ge=0, le=STEP_INDEX_LIMIT - 1)]
    name: _ToolName | UnsetType = UNSET
    type: _Name


class SentTrace(Struct, gc=False, kw_only=True):
    """One trace of a request; the fields are in the order of canonical JSON."""

    final_answer: _Text
    labels: Unset = UNSET
    messages: Unset = UNSET
    meta: Raw = Raw(b"null")
    prompt: _Text
    reward: Unset = UNSET
    steps: Annotated[list[SentStep], Meta(min_length=1, max_length=MAX_STEPS)]
    system: Unset = UNSET
    tools: Unset = UNSET
    trace_version: _Name

    @property
    def is_chat(self) -> bool:
        """Whether it has version 1.1 or its fields, which only `ReasoningTrace` validates."""
        of_chat = (self.labels, self.messages, self.reward, self.system, self.tools)
        return self.trace_version == CHAT_VERSION or any(value is not UNSET for value in of_chat)


class StoredStep(Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """One step of a stored trace."""

    call_id: str | UnsetType = UNSET
    content: str
    i: int
    name: str | UnsetType = UNSET
    type: str


class StoredPayload(Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A stored trace in canonical JSON; meta and fields of version 1.1 are kept as raw bytes."""

    final_answer: str
    labels: Unset = UNSET
    messages: Unset = UNSET
    meta: dict[str, Raw] | None
    prompt: str
    reward: Unset = UNSET
    steps: list[StoredStep]
    system: str | UnsetType = UNSET
    tools: Unset = UNSET
    trace_version: str


decode_trace = msgspec.json.Decoder(SentTrace).decode
"""JSON of one trace -> SentTrace."""
split_array = msgspec.json.Decoder(list[Raw]).decode
"""JSON array -> its elements as JSON, which are parts of the same buffer."""
