"""Write JSON schemas of pydantic models as Markdown: one section with a table for each model."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "minimum length {}",
    "maxLength": "maximum length {}",
    "pattern": "pattern `{}`",
}
"""Keyword of a JSON schema -> how the page says it."""
ANY_VALUE = "JsonValue"
"""Name of pydantic's model for any JSON value."""


def model_sections(
    schema: dict[str, Any], definitions: dict[str, Any], head: str, place: str = ""
) -> Iterator[str]:
    """Yield the section of a model, then one for each model that is nested in it.

    Args:
        schema: JSON schema of the model.
        definitions: name of a nested model -> its JSON schema.
        head: heading of the first section.
        place: key of the model in its file; empty at the top level.
    """
    places: dict[str, list[str]] = {}
    order: list[tuple[str, dict[str, Any]]] = []

    def visit(path: str, node: dict[str, Any]) -> None:
        for key, field in node["properties"].items():
            for name in _references(field):
                inner = f"{path}.{key}" if path else key
                if name not in places:
                    order.append((name, definitions[name]))
                    places[name] = []
                places[name].append(inner)
                visit(inner, definitions[name])

    visit(place, schema)
    yield f"\n## {head}\n\n{schema['description']}\n\n" + model_table(schema)
    for name, node in order:
        title = ", ".join(f"`{path}`" for path in dict.fromkeys(places[name]))
        yield f"\n## {title} {{ #{name} }}\n\n{cell(node.get('description', ''))}\n\n"
        yield model_table(node)


def _references(field: dict[str, Any]) -> list[str]:
    """Return the names of all models in a field, also in lists and choices."""
    if "$ref" in field:
        return [] if _name(field) == ANY_VALUE else [_name(field)]
    nested = [*field.get("anyOf", []), *field.get("oneOf", []), *field.get("allOf", [])]
    nested += [field[key] for key in ("items", "additionalProperties") if key in field]
    return [name for each in nested if isinstance(each, dict) for name in _references(each)]


def _name(field: dict[str, Any]) -> str:
    return str(field["$ref"]).rsplit("/", 1)[1]


def model_table(node: dict[str, Any]) -> str:
    """Return the table of the fields of a model, from its JSON schema."""
    required = set(node.get("required", ()))
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in node["properties"].items():
        default = "required" if key in required else _default(field)
        cells = (f"`{key}`", _type(field), default, cell(field.get("description", "")))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _type(field: dict[str, Any]) -> str:
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if field.get("items") else "list"
    if "$ref" in field and _name(field) == ANY_VALUE:
        return "any value"
    if "$ref" in field:
        return f"[{_name(field)}](#{_name(field)})"
    if choices := field.get("anyOf") or field.get("oneOf") or field.get("allOf"):
        return " or ".join(_type(each) for each in choices)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return "mapping of text to " + (_type(inner) if isinstance(inner, dict) else "any value")
    name = {"string": "text", "boolean": "true or false"}.get(field["type"], field["type"])
    limits = [escape(text.format(field[key])) for key, text in LIMITS.items() if key in field]
    return f"{name} ({', '.join(limits)})" if limits else str(name)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if isinstance(value, dict):
        return "its own defaults" if value or _references(field) else "`{}`"
    return "null" if value is None else f"`{json.dumps(value).strip(chr(34))}`"


def cell(text: str) -> str:
    """Text as one cell of a table: its first paragraph."""
    return escape(without_tags(" ".join(text.split("\n\n")[0].split())))


def paragraphs(text: str | None) -> str:
    """Return a docstring or a help text as Markdown."""
    return without_tags(inspect.cleandoc(text or "").replace("\f", ""))


def without_tags(text: str) -> str:
    """Text whose `<` is not read as HTML. In code spans Markdown escapes it by itself."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def escape(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return text.replace("|", "\\|")
