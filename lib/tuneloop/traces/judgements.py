"""Labels and scores that people and programs give to stored traces, as requests name them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from tuneloop.traces.schema import JsonObject, Text

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names of labels and of criteria, which selections of datasets refer to."""
WHO_PATTERN = "^[^\\x00-\\x20\\x7f]([^\\x00-\\x1f\\x7f]*[^\\x00-\\x20\\x7f])?$"
"""Names of reviewers: one line that neither begins nor ends with a space."""
MAX_WHO_CHARACTERS = 128
MAX_VALUE_CHARACTERS = 1000
MAX_REASON_CHARACTERS = 2000
MAX_DETAILS_BYTES = 4096
"""Maximum size of the details of a score as JSON."""
MAX_BATCH = 1000
"""Maximum number of labels or scores of one request."""

REVIEW = "review"
"""Name of the labels that the page for reviews gives."""
ACCEPT, REJECT, SKIP = "accept", "reject", "skip"
"""Values of these labels. A reviewer who skips a trace neither agrees nor disagrees with others."""

_SAFE = 2**53


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, expected text; remove it")
    return text


def _one_problem(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Replace the problems with each type of a value by one."""
    try:
        return validate(value)
    except ValidationError as e:
        raise PydanticCustomError(
            "label_value",
            "Value should be text of at most {most} characters without NUL, a number of at most"
            " 2^53, true or false",
            {"most": MAX_VALUE_CHARACTERS},
        ) from e


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Who = Annotated[str, Field(max_length=MAX_WHO_CHARACTERS, pattern=WHO_PATTERN)]
LabelValue = Annotated[
    StrictBool
    | Annotated[StrictInt, Field(ge=-_SAFE, le=_SAFE)]
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
    | Annotated[str, Field(max_length=MAX_VALUE_CHARACTERS), AfterValidator(_without_nul)],
    WrapValidator(_one_problem),
]


class LabelRequest(BaseModel):
    """A label for one trace."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Name = REVIEW
    """Name of the label; a reviewer can give a trace one label of each name."""
    value: LabelValue = Field(examples=[ACCEPT])
    """The label: text, a number, true or false. The page for reviews gives `accept`, `reject` and
    `skip`."""
    reason: Text = Field("", max_length=MAX_REASON_CHARACTERS)
    """Why the reviewer gave the label; empty without a reason."""
    who: Who | None = Field(None, examples=["ada"])
    """Name of the reviewer. A store with tokens uses the name of the token and refuses another
    one; a store without tokens needs it."""


TraceIdText = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]


class TraceLabelRequest(LabelRequest):
    """A label for a trace that it names."""

    trace_id: TraceIdText
    """Id of the trace."""


class ScoreRow(BaseModel):
    """A score of one trace."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    trace_id: TraceIdText
    """Id of the trace."""
    criteria: Name = Field(examples=["numeric"])
    """What was judged, such as the name of a scorer. The newest score of a criterion counts."""
    score: Annotated[float, Field(allow_inf_nan=False, examples=[1.0])]
    """The score; scorers of evaluations give 0 to 1."""
    details: JsonObject = {}
    """Anything else about the score, such as the answer that was judged."""
