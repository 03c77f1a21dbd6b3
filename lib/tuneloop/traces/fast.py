"""Fast msgspec versions of the trace schema, for code that handles millions of traces.

`SentTrace` accepts a subset of what `schema.ReasoningTrace` accepts, with the same result. Callers
must pass input that `SentTrace` refuses to `ReasoningTrace`, which may accept it or explain the
problem.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from tuneloop.traces.schema import (
    MAX_NAME_CHARACTERS,
    MAX_STEP_CHARACTERS,
    MAX_STEPS,
    MAX_TEXT_CHARACTERS,
    STEP_INDEX_LIMIT,
)

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class SentStep(Struct, frozen=True, gc=False):
    """One step of a request; the fields are in the order of canonical JSON."""

    content: Annotated[str, Meta(min_length=1, max_length=MAX_STEP_CHARACTERS)]
    i: Annotated[int, Meta(ge=0, le=STEP_INDEX_LIMIT - 1)]
    type: _Name


class SentTrace(Struct, gc=False, kw_only=True):
    """One trace of a request; the fields are in the order of canonical JSON."""

    final_answer: _Text
    meta: Raw = Raw(b"null")
    prompt: _Text
    steps: Annotated[list[SentStep], Meta(min_length=1, max_length=MAX_STEPS)]
    trace_version: _Name


class StoredStep(SentStep, frozen=True, gc=False, forbid_unknown_fields=True):
    """One step of a stored trace."""


class StoredPayload(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A stored trace in canonical JSON; the values of meta are kept as raw bytes."""

    final_answer: str
    meta: dict[str, Raw] | None
    prompt: str
    steps: list[StoredStep]
    trace_version: str


decode_trace = msgspec.json.Decoder(SentTrace).decode
"""JSON of one trace -> SentTrace."""
split_array = msgspec.json.Decoder(list[Raw]).decode
"""JSON array -> its elements as JSON, which are parts of the same buffer."""
