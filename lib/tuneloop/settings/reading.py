"""Read a model from environment variables, with errors that name the variable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tuneloop.errors import UsageError
from tuneloop.validation import first_error

DESCRIBE_FIELDS = "TUNELOOP_DESCRIBE_FIELDS" in os.environ
"""Whether the docstring of a field becomes its description. Only the generated reference needs
that, and it costs every command 70 ms, a tenth of `tuneloop plan`."""

Model = TypeVar("Model", bound=BaseModel)


def read_model(model: type[Model], environment: Mapping[str, str]) -> Model:
    """Read the fields of a model from the variables that are their aliases.

    Args:
        model: class of the result.
        environment: variables; one that is empty counts as absent.

    Raises:
        UsageError: a variable has an invalid value.
    """
    given = {
        name: value.strip()
        for field in model.model_fields.values()
        if (name := field.alias or "") and (value := environment.get(name, "")).strip()
    }
    try:
        return model.model_validate(given)
    except ValidationError as e:
        problem = first_error(e)
        if "expected" not in problem:  # such as a number of thousands of digits
            problem += ", expected a smaller value"
        raise UsageError(
            f"environment variable {problem}; correct the variable, or unset it"
        ) from e
