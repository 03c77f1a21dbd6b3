"""Fill YAML templates: a template is valid YAML that is parsed first and filled second.

A placeholder `${name}` is a whole scalar and is replaced by a value of any type. A value therefore
keeps its type and cannot inject structure. A missing value and an unused value are both errors. If
the value is None, an empty list or an empty mapping, its key is removed. The API server removes
such keys too, so an object that is applied twice stays equal.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.errors import SpecError
from tuneloop.yaml_in import parse_mapping

_PLACEHOLDER = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True)
class Template:
    """A parsed template, and its path or URL for error messages."""

    content: dict[str, Any]
    place: str
    text: str
    """The template itself, for its comments."""


def parse_template(data: bytes, place: str) -> Template:
    """Parse a template.

    Raises:
        SpecError: the text is not YAML, the value is not a mapping, or a placeholder is only a part
            of a longer text.
    """
    template, _ = parse_mapping(data, place, "one Kubernetes object", is_kubernetes=True)
    _check(template, place)
    return Template(template, place, data.decode("utf-8-sig"))


def fill(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every placeholder by its value.

    Raises:
        SpecError: a value is missing, or the template does not use a value.
    """
    used: set[str] = set()
    place = template.place
    filled: dict[str, Any] = _fill(template.content, values, used, place)
    unused = sorted(set(values) - used)
    if unused:
        raise SpecError(
            f"{place}: no placeholder uses {', '.join(unused)}; add one or remove the value"
        )
    return filled


def _fill(node: Any, values: Mapping[str, Any], used: set[str], place: str) -> Any:
    if isinstance(node, dict):
        filled = ((key, value, _fill(value, values, used, place)) for key, value in node.items())
        return {key: new for key, old, new in filled if new not in (None, {}, []) or new == old}
    if isinstance(node, list):
        return [_fill(value, values, used, place) for value in node]
    if isinstance(node, str) and (found := _PLACEHOLDER.fullmatch(node)):
        name = found[1]
        if name not in values:
            raise SpecError(
                f"{place}: placeholder ${{{name}}} has no value; add a value or remove the"
                " placeholder"
            )
        used.add(name)
        return copy.deepcopy(values[name])
    return node


def _check(node: Any, place: str) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or "${" in key:
                raise SpecError(
                    f"{place}: key {key!r}, expected plain text; use placeholders only in values"
                )
            _check(value, place)
    elif isinstance(node, list):
        for value in node:
            _check(value, place)
    elif isinstance(node, str) and "${" in node and not _PLACEHOLDER.fullmatch(node):
        raise SpecError(
            f"{place}: {node!r} contains a placeholder, expected it to be the whole value; remove"
            " the other text"
        )
