"""Error replies for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuneloop.store.routes import examples


class Failure(BaseModel):
    """The reason why a request failed, in one sentence."""

    detail: str


class Fault(BaseModel):
    """One problem of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = Field(examples=["string_too_short"])
    """Pydantic's name of the problem."""
    loc: list[str | int] = Field(examples=[["body", 0, "prompt"]])
    """Location of the problem, starting with `body`, `path`, `query` or `header`."""
    msg: str = Field(examples=["String should have at least 1 character"])
    input: Any = Field(None, examples=[""])
    """The invalid value, shortened if it is long."""
    ctx: dict[str, Any] = Field({}, examples=[{"min_length": 1}])
    """The limits or values that were expected."""


class Faults(BaseModel):
    """All problems of a request, at most 100."""

    detail: list[Fault]


REFUSALS: Mapping[int, tuple[str, str]] = {
    400: (
        "The body is incomplete, or the batch is empty or too large",
        "Batch must contain at least one trace",
    ),
    401: ("Missing or unknown token", "Unknown or missing token"),
    403: ("The role of the token does not allow this", "Token ci has role read, this needs write"),
    404: ("Not found", f"Trace {examples.TRACE_ID} not found"),
    409: (
        "The key is already used for other content",
        "dataset sums-v1: seed is 8, but it was built with 7; a dataset never changes, use another"
        " dataset_version",
    ),
    413: ("The body is too long", "Payload size exceeds maximum of 1048576 bytes"),
    416: ("The range starts after the end of the file", f"{examples.SHARD_NAME} has 1048 bytes"),
    422: ("The request is invalid", "limit must be between 1 and 100"),
    429: ("Too many refused tokens from this address", "Too many refused tokens; wait"),
    500: ("A stored file is damaged, or the store has a bug", "Internal Server Error"),
    503: ("The store is busy or cannot reach its data", "The store is busy; try again later"),
}
"""Description and example of each status code."""
_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Document these status codes; pass it to a route or a router as `responses`."""
    return {
        code: {
            "$ref": f"#/components/responses/Refused{code}",
            "description": REFUSALS[code][0],
        }
        for code in codes
    }


ANY = refusals(500)
"""Error replies of every operation."""
GUARDED = refusals(401, 403, 429, 500)
"""Error replies of every operation that needs a token."""


def components() -> dict[str, Any]:
    """Build the responses that `refusals` refers to."""
    return {f"Refused{code}": _response(code) for code in REFUSALS}


def _response(code: int) -> dict[str, Any]:
    description, detail = REFUSALS[code]
    failure = {"$ref": "#/components/schemas/Failure"}
    faults = {"$ref": "#/components/schemas/Faults"}
    schema = {"anyOf": [failure, faults]} if code == 422 else failure
    content = {"schema": schema, "example": {"detail": detail}}
    names = ["X-Request-ID", *([_HEADERS[code]] if code in _HEADERS else [])]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": content},
    }
