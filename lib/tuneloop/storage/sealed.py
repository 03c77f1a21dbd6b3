"""JSON files that carry the digest of their own content, so that a changed one is found.

The key `seal` holds the sha256 of all other keys. It finds damage, not forgery: a process that may
write a file can also write its seal. A file without a seal was written by an older version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, model_validator

SEAL = "seal"
LINE_SEAL_CHARACTERS = 16
"""Length of the seal of a line, which is a part of a sha256."""


class Sealed(BaseModel):
    """Base of models whose files may carry a seal; one that does not fit is a validation error."""

    @model_validator(mode="before")
    @classmethod
    def _check_seal(cls, value: Any) -> Any:
        return unsealed(value)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its seal."""
    return {**value, SEAL: _digest(value)}


def without_seal(value: Any) -> Any:
    """Return a value without its seal, which is not checked."""
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if key != SEAL}


def unsealed(value: Any) -> Any:
    """Return a value without its seal; a value without one is returned as it is.

    Raises:
        ValueError: the seal is not the digest of the other keys.
    """
    if not isinstance(value, dict) or SEAL not in value:
        return value
    rest: dict[str, Any] = without_seal(value)
    if value[SEAL] != _digest(rest):
        raise ValueError("its seal is not the digest of its content, so it was changed")
    return rest


def seal_lines(values: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield JSON objects with a seal each, which also covers all objects before it."""
    before = ""
    for value in values:
        before = _digest({**value, SEAL: before})[:LINE_SEAL_CHARACTERS]
        yield {**value, SEAL: before}


def read_sealed_lines(data: bytes) -> tuple[list[dict[str, Any]], int | None]:
    """Read the lines of a file of sealed JSON objects, up to the first damaged one.

    Args:
        data: the file. If no line has a seal, an older version wrote it, and only lines that are no
            JSON objects count as damaged.

    Returns:
        The objects before the first damaged line, without seals; and the number of that line from
        1, or None if all lines are intact.
    """
    lines = data.split(b"\n")
    last = lines.pop()
    has_seals, before = f'"{SEAL}"'.encode() in data, ""
    values: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return values, number
        if not isinstance(value, dict):
            return values, number
        if has_seals:
            seal = value.pop(SEAL, None)
            before = _digest({**value, SEAL: before})[:LINE_SEAL_CHARACTERS]
            if seal != before:
                return values, number
        values.append(value)
    return values, len(lines) + 1 if last else None


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()
