"""Reasoning traces as people send them: limits and reasons.

One rule: what passes here can be stored, exported and read back everywhere: no half of a surrogate
pair, no NUL, no NaN. Unknown fields are dropped silently, so that richer producers can post.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    FailFast,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)

from tuneloop.datasets.schema import (
    MAX_STEP_CHARACTERS,
    MAX_STEPS,
    MAX_TEXT_CHARACTERS,
    JsonObject,
    Text,
    utc_text,
)
from tuneloop.errors import DataError
from tuneloop.validation import first_error

UtcMoment = Annotated[AwareDatetime, PlainSerializer(utc_text, return_type=str, when_used="json")]


class TraceStep(BaseModel):
    """One step of reasoning."""

    i: int = Field(ge=0, lt=2**63)
    type: Text = Field(min_length=1, max_length=64)
    content: Text = Field(min_length=1, max_length=MAX_STEP_CHARACTERS)


# One step's faults are enough: a thousand wrong steps in a thousand traces would be a report of
# gigabytes.
Steps = Annotated[list[TraceStep], FailFast(), Field(min_length=1, max_length=MAX_STEPS)]


class ReasoningTrace(BaseModel):
    """A prompt, the steps of reasoning, the final answer."""

    trace_version: Text = Field(min_length=1, max_length=64)
    prompt: Text = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    final_answer: Text = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    steps: Steps
    """In any order, gaps allowed, no index twice."""
    meta: JsonObject | None = None
    """Whatever the producer wants to keep; filters of a dataset look here."""

    @field_validator("steps")
    @classmethod
    def _unique_indices(cls, steps: list[TraceStep]) -> list[TraceStep]:
        if len({step.i for step in steps}) < len(steps):
            raise ValueError("Step indices must be unique")
        return steps


class StoredTrace(BaseModel):
    """A trace as the store holds it."""

    id: UUID
    created_at: UtcMoment
    trace: ReasoningTrace


def parse_trace(value: Mapping[str, Any], place: str, line: int) -> ReasoningTrace:
    """Read one trace of a file.

    Args:
        value: the object on the line.
        place: the file, as the error should name it.
        line: the line number, from 1.

    Raises:
        DataError: the object is no trace; one sentence with file, line and field.
    """
    try:
        return ReasoningTrace.model_validate(value)
    except ValidationError as e:
        raise DataError(f"{place}:{line}: {first_error(e)}; mend the line") from e
