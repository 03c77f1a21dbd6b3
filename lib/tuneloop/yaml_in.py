"""Read YAML files that people write into typed models; every error names its line.

Duplicate keys and unknown keys, which YAML readers usually accept silently, are errors.
"""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tuneloop.errors import SpecError
from tuneloop.validation import all_errors

# The parser of libyaml is ten times faster and also reports lines. Every PyYAML wheel includes it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Model = TypeVar("Model", bound=BaseModel)


def parse_mapping(data: bytes, place: str, what: str) -> tuple[dict[str, Any], yaml.Node]:
    """Parse one YAML mapping.

    Args:
        data: the file's bytes; a byte order mark and CRLF line ends are accepted.
        place: path or URL of the file, used in error messages.
        what: the expected content of the file, used in error messages.

    Returns:
        The value, and the root node, which holds the line numbers.

    Raises:
        SpecError: the text is not YAML, a key is duplicated, or the value is not a mapping.
    """
    try:
        loader = _Loader(data)  # parsed only once, because parsing dominates a small command
        root = loader.get_single_node()
        _refuse_twice(root, place)
        value = loader.construct_document(root) if root else None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        # The start of the broken construct helps people more than the place where parsing stopped.
        mark = getattr(e, "context_mark", None) or getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or getattr(e, "reason", "unreadable")
        line = mark.line + 1 if mark else 1
        raise SpecError(f"{place}:{line}: broken YAML ({problem}); fix the line") from e
    if not isinstance(value, dict) or root is None:
        raise SpecError(f"{place}:1: found {type(value).__name__}, expected {what}")
    return value, root


def load_model(model: type[Model], data: bytes, place: str, what: str) -> Model:
    """Parse a file and validate it against a model.

    Raises:
        SpecError: `parse_mapping` failed, a key is unknown or missing, or a value is invalid.
    """
    value, root = parse_mapping(data, place, what)
    try:
        return model.model_validate(value)
    except ValidationError as e:
        # A misspelt key is reported both as missing and as unknown. The unknown key is the one that
        # people can see in their file.
        errors = e.errors()
        at = next((i for i, d in enumerate(errors) if d["type"] == "extra_forbidden"), 0)
        line = _line_of(root, errors[at]["loc"])
        raise SpecError(f"{place}:{line}: {all_errors(e)[at]}; fix the line") from e


def _refuse_twice(node: yaml.Node | None, place: str) -> None:
    """Raise for a duplicate key; YAML readers silently use the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SpecError(f"{place}:{line}: key {key.value!r} is given twice; remove one")
            seen.add(key.value)
            _refuse_twice(child, place)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_twice(child, place)


def _line_of(node: yaml.Node | None, path: tuple[Any, ...]) -> int:
    """Return the line, counted from 1, of the deepest key or item of the path in the file."""
    line = node.start_mark.line + 1 if node else 1
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
    return line
