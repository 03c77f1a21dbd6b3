"""Say which keys a section of a file may have, and which is the nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from tuneloop.validation import shorten

_TAG = "kind"


def unknown_key(model: type[BaseModel], path: tuple[str | int, ...], value: Any) -> str:
    """Describe an unknown key.

    Args:
        model: class of the whole file.
        path: keys and indices that lead to the unknown key.
        value: the value of the whole file.

    Returns:
        One line, for example `train.setps is an unknown key, expected only keys of train: model,
        steps; the nearest is steps`.
    """
    classes: list[Any] = [model]
    for part in path[:-1]:
        value = _child(value, part)
        if not isinstance(part, int):
            classes = [
                each
                for found in classes
                for name, field in found.model_fields.items()
                if part in (name, field.alias)
                for each in _models(field.annotation)
            ]
        classes = _of_kind(classes, value)
    names = {
        field.alias or name: None for each in classes for name, field in each.model_fields.items()
    }
    key, section = str(path[-1]), ".".join(map(str, path[:-1])) or "the top level"
    near = difflib.get_close_matches(key, names, n=1)
    shown = shorten(".".join(map(str, path)), 200).strip("'\"")
    expected = f"{shown} is an unknown key, expected only keys of {section}: {', '.join(names)}"
    return f"{expected}; the nearest is {near[0]}" if near else expected


def _child(value: Any, part: str | int) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models of an annotation, also those of unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def _of_kind(classes: list[Any], value: Any) -> list[Any]:
    """Return the classes of a union that the value's `kind`, or its default, selects."""
    if len(classes) < 2 or not isinstance(value, dict):
        return classes
    tagged = [each for each in classes if _TAG in each.model_fields]
    if _TAG in value:
        found = [e for e in tagged if value[_TAG] in get_args(e.model_fields[_TAG].annotation)]
    else:
        found = [each for each in tagged if not each.model_fields[_TAG].is_required()]
    return found or classes
