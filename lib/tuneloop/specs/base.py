"""The base class of all specs and the types of their values."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]

# The API server refuses any other text in these places; refuse it before asking the server.
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
LabelKey = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    ),
]
Quantity = Annotated[
    str,
    Field(pattern=r"^([1-9][0-9]*(\.[0-9]+)?|0\.0*[1-9][0-9]*)(m|k|[MGTPE]|[KMGTPE]i)?$"),
]
"""Amount of a resource above zero, as text such as `2`, `0.5` or `4Gi`: typed clients refuse a bare
number. The suffixes are those of Kubernetes, without `n`, `u` and exponents."""


DESCRIBE_FIELDS = "TUNELOOP_DESCRIBE_FIELDS"
"""Environment variable: with any value, the docstring of a field becomes its description. Only the
generated reference needs that, and it costs every command 70 ms, a tenth of `tuneloop plan`."""


class Spec(BaseModel):
    """Base of every spec: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=DESCRIBE_FIELDS in os.environ,
        defer_build=True,
    )
