"""Read YAML files into pydantic models; every error names the line.

A key that is given twice and an unknown key are errors, although YAML allows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tuneloop.errors import SpecError
from tuneloop.file_kinds import not_text
from tuneloop.settings.limits import input_limits, raise_with
from tuneloop.unknown_keys import unknown_key
from tuneloop.validation import all_errors, path_of
from tuneloop.yaml_nodes import check_depth, check_nodes

# libyaml's parser is ten times faster and also records lines; every PyYAML wheel contains it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Model = TypeVar("Model", bound=BaseModel)


def parse_mapping(
    data: bytes, place: str, what: str, *, is_kubernetes: bool = False
) -> tuple[dict[str, Any], yaml.Node]:
    """Parse one YAML mapping.

    Args:
        data: the file's bytes; a byte order mark and CRLF line ends are accepted.
        place: path or URL of the file, used in error messages.
        what: the expected content of the file, used in error messages.
        is_kubernetes: accept the spellings that kubectl reads, such as `defaultMode: 0400`.

    Returns:
        The value, and its node, which holds the line numbers.

    Raises:
        SpecError: it is not YAML, a key is given twice, a value is none that JSON has or is
            spelled as YAML versions read differently, or it is not a mapping.
    """
    try:
        check_depth(data, place, _Loader)
        loader = _Loader(data)
        root = loader.get_single_node()
        _check_aliases(root, place)
        check_nodes(root, place, is_kubernetes=is_kubernetes)
        _refuse_twice(root, place)
        value = loader.construct_document(root) if root else None
    except (yaml.YAMLError, ValueError, TypeError) as e:
        if (kind := not_text(data)) is not None:
            raise SpecError(
                f"{place}: is {kind}, expected text with {what} in UTF-8; unpack or convert it"
            ) from e
        # The line where the broken construct begins, not the line where the parser stopped.
        mark = getattr(e, "context_mark", None) or getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or getattr(e, "reason", "unreadable")
        line = mark.line + 1 if mark else 1
        raise SpecError(
            f"{place}:{line}: broken YAML ({problem}), expected {what}; fix the line"
        ) from e
    if not isinstance(value, dict) or root is None:
        raise SpecError(f"{place}:1: found {type(value).__name__}, expected {what}")
    return value, root


def load_model(
    model: type[Model],
    data: bytes,
    place: str,
    what: str,
    renamed_keys: Mapping[str, str] = MappingProxyType({}),
    renamed_kinds: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Model:
    """Parse and validate a file.

    Args:
        model: class of the result.
        data: the file's bytes.
        place: path or URL of the file, for errors.
        what: what the file should hold, for errors.
        renamed_keys: path of an old key, such as `train.optimizer.b1` -> its new name.
        renamed_kinds: path of a `kind`, such as `train.model.kind` -> old value -> what to write.

    Raises:
        SpecError: `parse_mapping` failed, a key is unknown or missing, or a value is invalid.
    """
    value, root = parse_mapping(data, place, what)
    return validate(model, value, root, place, renamed_keys, renamed_kinds)


def validate(
    model: type[Model],
    value: dict[str, Any],
    root: yaml.Node,
    place: str,
    renamed_keys: Mapping[str, str] = MappingProxyType({}),
    renamed_kinds: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Model:
    """Validate a parsed file, with the arguments of `load_model`.

    Args:
        model: class of the result.
        value: the value from `parse_mapping`.
        root: its node.
        place: path or URL of the file, for errors.
        renamed_keys: path of an old key -> its new name.
        renamed_kinds: path of a `kind` -> old value -> what to write.

    Raises:
        SpecError: a key is unknown or missing, or a value is invalid.
    """
    try:
        return model.model_validate(value)
    except ValidationError as e:
        # A misspelt key causes two errors, missing and unknown. The unknown key is in the file.
        errors = e.errors()
        at = next((i for i, d in enumerate(errors) if d["type"] == "extra_forbidden"), 0)
        details, path = errors[at], path_of(errors[at], value)
        line, key = line_of(root, path), ".".join(map(str, path))
        problem = f"{all_errors(e, value)[at]}; fix the line"
        if new_key := renamed_keys.get(key):
            problem = f"{key} is an old key, expected {new_key}; rename the key"
        elif details["type"] == "extra_forbidden":
            problem = f"{unknown_key(model, path, value)}; fix the line"
        elif details["type"] == "union_tag_not_found":
            problem = f"{key} is missing, expected {_kinds(model, path)}; add the key"
        elif details["type"] == "union_tag_invalid":
            found = details["ctx"]["tag"]
            if new := renamed_kinds.get(key, {}).get(found):
                problem = f"{key} is {found!r}, an old value, expected {new}; change the key"
        raise SpecError(f"{place}:{line}: {problem}") from e


def _kinds(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """List the values that the last key of the path may have, which selects a class of a union."""
    classes: tuple[Any, ...] = (model,)
    for part in path:
        fields = [
            field
            for each in classes
            for name, field in getattr(each, "model_fields", {}).items()
            if part in (name, field.alias)
        ]
        classes = tuple(
            each for field in fields for each in get_args(field.annotation) or (field.annotation,)
        )
    return " or ".join(map(repr, classes))


def _check_aliases(root: yaml.Node | None, place: str) -> None:
    """Refuse a file whose aliases expand to very many values, or refer to what contains them.

    A file of 300 bytes can stand for billions of values. The time is linear in the file.
    """
    most = input_limits().yaml_values
    sizes: dict[int, int] = {}
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)] if root else []
    open_nodes: set[int] = set()
    while waiting:
        node, is_complete = waiting.pop()
        children = _children(node)
        if is_complete:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > most:
                raise SpecError(
                    f"{place}:{node.start_mark.line + 1}: holds more than {most:,} values with"
                    " its aliases, expected a small file; write fewer aliases,"
                    f" {raise_with('yaml_values')}"
                )
        elif id(node) not in sizes:
            if id(node) in open_nodes:
                raise SpecError(
                    f"{place}:{node.start_mark.line + 1}: found an alias to a value that contains"
                    " it, expected plain values; remove the alias"
                )
            open_nodes.add(id(node))
            waiting.append((node, True))
            waiting += [(child, False) for child in children if id(child) not in sizes]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_twice(node: yaml.Node | None, place: str) -> None:
    """Refuse a mapping with two equal keys, of which YAML readers silently take the last."""
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


def line_of(node: yaml.Node | None, path: tuple[Any, ...]) -> int:
    """Return the line, from 1, of the deepest key or item on the path that the file contains."""
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
