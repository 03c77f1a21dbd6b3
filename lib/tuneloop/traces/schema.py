"""The schema of reasoning traces: fields, limits, and functions to build and validate a trace.

A valid trace contains no lone surrogate, no NUL and no NaN, so that every database and JSON reader
can store and read it. Unknown fields are dropped silently, so that producers may send more fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    FailFast,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    field_validator,
)

from tuneloop.errors import DataError
from tuneloop.validation import first_error

TRACE_VERSION = "1.0"
"""`trace_version` of traces that tuneloop creates."""

MAX_STEPS = 1000
MAX_STEP_CHARACTERS = 20_000
MAX_TEXT_CHARACTERS = 50_000
"""Maximum length of a prompt or a final answer; all lengths here are in code points."""
MAX_NAME_CHARACTERS = 64
"""Maximum length of a trace's version and of a step's type."""
STEP_INDEX_LIMIT = 2**63
"""Exclusive upper limit of step indices."""
MAX_META_BYTES = 4 << 20
"""Maximum size of the meta of a trace as JSON. In memory, JSON can take thirty times its size."""
MAX_JSON_DEPTH = 64
"""Maximum nesting depth of meta and filters. Some JSON readers fail at a depth of 100 or more."""


def utc_text(moment: datetime) -> str:
    """Format a time in UTC with microseconds, such as `2026-11-22T11:22:10.546379Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _no_nul(text: str) -> str:
    if "\x00" in text:  # PostgreSQL cannot store NUL, and C programs end a text there.
        raise ValueError("holds a NUL character, expected text; remove it")
    return text


def _check_string(text: str) -> None:
    _no_nul(text)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("holds a lone surrogate, expected whole characters; write both halves")


def _strict_json(value: Any) -> Any:
    """Refuse JSON values that some JSON readers or databases cannot handle."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() or "\x00" in item:
                _check_string(item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("holds NaN or an infinity, expected finite numbers; use null")
        elif isinstance(item, dict | list):
            if depth > MAX_JSON_DEPTH:
                raise ValueError(
                    f"is nested deeper than {MAX_JSON_DEPTH} levels, expected less; flatten it"
                )
            if isinstance(item, dict):
                waiting.extend((key, depth) for key in item)
                item = item.values()
            waiting.extend((child, depth + 1) for child in item)
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_strict_json)]
UtcMoment = Annotated[AwareDatetime, PlainSerializer(utc_text, return_type=str, when_used="json")]


class TraceStep(BaseModel):
    """One step of reasoning."""

    i: int = Field(ge=0, lt=STEP_INDEX_LIMIT)
    type: Text = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    content: Text = Field(min_length=1, max_length=MAX_STEP_CHARACTERS)


# Validation stops at the first invalid step of a trace. Reporting a thousand invalid steps in each
# of a thousand traces would make gigabytes of errors.
Steps = Annotated[list[TraceStep], FailFast(), Field(min_length=1, max_length=MAX_STEPS)]


class ReasoningTrace(BaseModel):
    """A prompt, reasoning steps and a final answer."""

    trace_version: Text = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    prompt: Text = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    final_answer: Text = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    steps: Steps
    """Steps in any order; indices must be unique and may have gaps."""
    meta: JsonObject | None = None
    """Any data of the producer; dataset filters select traces by these values."""

    @field_validator("steps")
    @classmethod
    def _unique_indices(cls, steps: list[TraceStep]) -> list[TraceStep]:
        if len({step.i for step in steps}) < len(steps):
            raise ValueError("Step indices must be unique")
        return steps


class StoredTrace(BaseModel):
    """A trace with the id and the creation time that the store gave it."""

    id: UUID
    created_at: UtcMoment
    trace: ReasoningTrace


def build_trace(
    prompt: str,
    steps: Iterable[str],
    final_answer: str,
    *,
    meta: dict[str, Any] | None = None,
    step_type: str = "reason",
) -> dict[str, Any]:
    """Build a trace as a JSON object, without validating it.

    Args:
        prompt: the prompt.
        steps: contents of the steps, in order.
        final_answer: the final answer.
        meta: any data to keep with the trace.
        step_type: type of every step.
    """
    return {
        "trace_version": TRACE_VERSION,
        "prompt": prompt,
        "final_answer": final_answer,
        "steps": [
            {"i": i, "type": step_type, "content": content} for i, content in enumerate(steps)
        ],
        "meta": meta,
    }


def parse_trace(value: Mapping[str, Any], place: str, line: int) -> ReasoningTrace:
    """Validate one trace of a file.

    Args:
        value: the JSON object on the line.
        place: path or URL of the file, for error messages.
        line: the line number, from 1.

    Raises:
        DataError: the object is not a valid trace; the message names file, line and field.
    """
    try:
        return ReasoningTrace.model_validate(value)
    except ValidationError as e:
        raise DataError(f"{place}:{line}: {first_error(e)}; fix the line") from e
