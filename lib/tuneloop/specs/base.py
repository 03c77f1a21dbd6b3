"""The base class of all specs and the types of their values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from tuneloop.settings.reading import DESCRIBE_FIELDS

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


MOST = 2**31 - 1
"""Upper bound of a whole number for which its field states none; as seconds, 68 years."""

MOST_BYTES = 2**63 - 1
"""Upper bound of a field that ends in `_bytes`."""


class Spec(BaseModel):
    """Base of every spec: unknown keys are errors, values cannot change.

    A whole number is no text, truth value or fraction, and has an upper bound. A truth value is
    true or false.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=DESCRIBE_FIELDS,
        defer_build=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        """Return the schema with the rules for numbers and truth values."""
        schema = handler(source)
        _apply_rules(schema, cls)
        return schema


def _apply_rules(schema: Any, model: type[BaseModel], most: int = MOST) -> None:
    """Change the schemas of numbers and truth values in place, except those of other models."""
    kind = schema.get("type")
    if kind == "int":
        schema["strict"] = True
        if not {"le", "lt"} & schema.keys():
            schema["le"] = most
    elif kind == "bool":
        schema["strict"] = True
    elif kind == "float":  # not strict, because `1e-2` is text in YAML 1.1
        inner = dict(schema)
        schema.clear()
        schema.update(core_schema.no_info_before_validator_function(_no_truth_value, inner))
        return
    if kind == "model-fields":
        for name, field in schema["fields"].items():
            _apply_rules(field, model, MOST_BYTES if name.endswith("_bytes") else MOST)
        return
    children = list(schema.get("choices", [])) if kind == "union" else []
    children += schema.get("items_schema", []) if kind == "tuple" else []
    for key in ("schema", "items_schema", "keys_schema", "values_schema"):
        if isinstance(schema.get(key), dict):
            children.append(schema[key])
    for child in children:
        found = child[0] if isinstance(child, tuple) else child
        if found.get("cls", model) is model:
            _apply_rules(found, model, most)


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value
