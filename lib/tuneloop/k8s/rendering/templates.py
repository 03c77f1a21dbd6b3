"""Templates are valid YAML, parsed first and filled second.

One rule: a placeholder is a whole scalar, `${name}`, and its value takes its place as it is. So a
value cannot inject structure and keeps its type; a value that is missing, or that no placeholder
asks for, is an error. None, an empty list or an empty mapping takes its key away: the API server
does so too, and an object that is applied twice should not differ from itself.
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
    """A parsed template and where it lies, for errors."""

    content: dict[str, Any]
    place: str


def parse_template(data: bytes, place: str) -> Template:
    """Parse a template.

    Raises:
        SpecError: it is not YAML, not one mapping, or holds a placeholder inside a longer text.
    """
    template, _ = parse_mapping(data, place, "one Kubernetes object")
    _check(template, place)
    return Template(template, place)


def fill(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill every placeholder.

    Raises:
        SpecError: a value is missing, or one is given that the template does not use.
    """
    used: set[str] = set()
    place = template.place
    filled: dict[str, Any] = _fill(template.content, values, used, place)
    unused = sorted(set(values) - used)
    if unused:
        raise SpecError(
            f"{place}: no placeholder takes {', '.join(unused)}; add one or drop the value"
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
            raise SpecError(f"{place}: placeholder ${{{name}}} has no value; add it or remove it")
        used.add(name)
        return copy.deepcopy(values[name])
    return node


def _check(node: Any, place: str) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or "${" in key:
                raise SpecError(f"{place}: key {key!r}, expected plain text; fill values, not keys")
            _check(value, place)
    elif isinstance(node, list):
        for value in node:
            _check(value, place)
    elif isinstance(node, str) and "${" in node and not _PLACEHOLDER.fullmatch(node):
        raise SpecError(f"{place}: {node!r} holds a placeholder, expected it to be the whole value")
