"""TrainingExample: what training reads; derived from a trace and its dataset, never in SQL."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneloop.errors import DataError
from tuneloop.validation import first_error


class TrainingExample(BaseModel):
    """One prompt/response pair."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(min_length=1)
    """uuid5 of (dataset build, trace id, recipe): the same trace gives the same id every time."""
    prompt: str = Field(min_length=1)
    """What the user says, instruction included, before any chat rendering."""
    response: str = Field(min_length=1)
    """What the model should say, before any chat rendering."""
    metadata: dict[str, Any] = {}
    """Provenance, and the trace's own meta below it."""


def parse_example(value: dict[str, Any], place: str, line: int) -> TrainingExample:
    """Validate one line of an example shard; DataError names the line."""
    try:
        return TrainingExample.model_validate(value)
    except ValidationError as e:
        raise DataError(f"{place}:{line}: {first_error(e)}; export the dataset again") from e
