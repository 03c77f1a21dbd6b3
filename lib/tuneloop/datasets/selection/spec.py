"""The rules of a selection, as they are written in a build request and kept in the manifest.

The rules are applied in the order of the fields of `SelectionSpec`. Each rule sees only the traces
that the rules before it have kept, except for the pass rate, which counts all candidates.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

from tuneloop.datasets.pointer import pointer_tokens
from tuneloop.traces.schema import utc_text

NUMBERS = ("reward", "length")
"""Fields of a trace that are numbers; `length` is in code points."""
TEXTS = ("source", "model_digest")
"""Fields of a trace that are texts, from the keys of the same name in its meta."""
TIME = "created_at"
FIELDS = (*NUMBERS, *TEXTS, TIME)
_NAMED = re.compile(r"(scores|labels)\.(.{1,128})", re.DOTALL)
_EXPECTED = f"{', '.join(FIELDS)}, scores.NAME, labels.NAME or a path into meta such as /model/name"


def check_field(field: str) -> str:
    """Return the name of a field of traces if it is valid.

    Raises:
        ValueError: the name is none of `FIELDS`, `scores.NAME`, `labels.NAME` and a JSON Pointer
            (RFC 6901) into meta.
    """
    if field.startswith("/"):
        pointer_tokens(field)
    elif field not in FIELDS and not _NAMED.fullmatch(field):
        raise ValueError(f"found the field {field[:60]!r}, expected {_EXPECTED}")
    return field


def named(field: str) -> tuple[str, str] | None:
    """Split `scores.NAME` or `labels.NAME` into the kind and the name; None for other fields."""
    found = _NAMED.fullmatch(field)
    return found and (found[1], found[2])


_PATTERN = rf"^({'|'.join(FIELDS)}|(scores|labels)\.[\s\S]{{1,128}}|/([^~]|~[01])*)$"
FieldName = Annotated[
    str, AfterValidator(check_field), Field(json_schema_extra={"pattern": _PATTERN})
]
# In JSON, true and "1" are no numbers.
Number = Annotated[float, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Scalar = StrictBool | StrictInt | Number | StrictStr | None
"""A JSON value that is neither a list nor an object."""


class _Rule(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Comparison(_Rule):
    """Values of a field that a trace must have.

    A trace without the field has the value null: it fails `min` and `max`.
    """

    min: Number | str | None = None
    """Smallest accepted value; for `created_at` a time in ISO 8601, in UTC unless it has an
    offset. Null sets no minimum."""
    max: Number | str | None = None
    """Largest accepted value, in the same form. Null sets no maximum."""
    any_of: tuple[Scalar, ...] | None = None
    """Accepted values; true differs from 1, and 1 equals 1.0. Null accepts every value."""
    none_of: tuple[Scalar, ...] | None = None
    """Refused values. Null refuses none."""

    @model_validator(mode="after")
    def _compares(self) -> Comparison:
        if not self.model_dump(exclude_none=True):
            raise ValueError("compares nothing, expected at least one of min, max, any_of, none_of")
        return self


class PassRate(_Rule):
    """Share of the traces of a prompt that pass, among its traces that have a reward."""

    threshold: Number = 1.0
    """Smallest reward of a trace that passes."""
    min: Share | None = None
    """Smallest accepted share. A prompt whose traces have no reward has no share and fails."""
    max: Share | None = None
    """Largest accepted share; below 1, it removes prompts that the model always solves."""


class NearDuplicates(_Rule):
    """Clusters of traces with nearly the same words, by MinHash."""

    text: Literal["trace", "prompt"] = "trace"
    """Compared text: prompt, steps and final answer, or the prompt alone."""
    keep: Count = 1
    """Maximum number of traces of a cluster that are kept, in the order of `best_of` if it is
    given, and of the selection for traces that are equal in this order."""


class BestOf(_Rule):
    """The best traces of each prompt."""

    count: Count
    """Maximum number of traces per prompt."""
    by: FieldName = "reward"
    """Field whose largest values are kept. Traces without it come last. Of traces with equal
    values, those are kept that come first in the order of the selection."""


class SelectionSpec(_Rule):
    """Which of the candidates are selected. The rules are applied in this order."""

    datasets: dict[str, Annotated[float, Field(strict=True, gt=0)]] = {}
    """Keys of published datasets with their weights; only their traces are candidates, without
    those that were deleted from the store. A trace of several datasets belongs to the first one by
    key. Of several datasets, the selection has shares in proportion to the weights. Empty: all
    traces of the store are candidates."""
    where: dict[FieldName, Comparison] = {}
    """Comparisons by field: reward, length (code points of prompt, steps and final answer),
    created_at, source, model_digest, scores.NAME and labels.NAME (the newest of a trace; a skip is
    no label), and paths into meta such as /model/name. A trace must pass all of them."""
    pass_rate: PassRate | None = None
    """Pass rate of the prompt, over all candidates, before `where` removes any."""
    near_duplicates: NearDuplicates | None = None
    best_of: BestOf | None = None
    caps: dict[FieldName, Count] = {}
    """Maximum number of traces for each value of a field, such as `source` or `/category`; the
    first ones in the order of the selection are kept. Traces without a value count as one group."""

    @model_validator(mode="after")
    def _check_values(self) -> SelectionSpec:
        for field, comparison in self.where.items():
            for bound in (comparison.min, comparison.max):
                check_bound(field, bound)
        if self.best_of is not None and self.best_of.by in (*TEXTS, TIME):
            raise ValueError(f"best_of.by is {self.best_of.by}, expected a field of numbers")
        return self

    def fields(self) -> list[str]:
        """Return the fields whose values the rules need, each once."""
        by = [] if self.best_of is None else [self.best_of.by]
        reward = [] if self.pass_rate is None else ["reward"]
        return list(dict.fromkeys([*self.where, *self.caps, *by, *reward]))

    def needs_payload(self) -> bool:
        """Return whether the rules need the text of the traces."""
        return self.near_duplicates is not None or "length" in self.fields()


def check_bound(field: str, bound: float | str | None) -> None:
    """Check the type of a bound.

    Raises:
        ValueError: a bound of `created_at` is not a time, or another bound is not a number.
    """
    if bound is None:
        return
    if field == TIME:
        time_text(bound)
    elif isinstance(bound, str):
        raise ValueError(f"{field}: found {bound[:60]!r}, expected a number for min and max")


def time_text(bound: Any) -> str:
    """Convert a bound of `created_at` to the form of `utc_text`.

    Raises:
        ValueError: the bound is not a time in ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(bound)
    except (TypeError, ValueError) as e:
        raise ValueError(
            f"{TIME}: found {str(bound)[:60]!r}, expected a time such as 2026-11-22T11:00:00Z"
        ) from e
    return utc_text(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
