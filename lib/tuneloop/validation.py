"""Turn errors of pydantic and msgspec into text of the form "field, found, expected".

The caller adds the place before the text and the fix after it. The text shows the value that was
found, so never pass an error about a model that holds a credential.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from tuneloop.errors import SpecError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Row = TypeVar("Row")

_SHOWN = 60
_SHOULD = re.compile(r"\w+ should (?:be |have )?")
_PLAIN = re.compile(r"[\w./-]{1,60}")
_FIELD = re.compile(r"Object (missing required|contains unknown) field (.*)")
_BARE = re.compile(r"expected (?=greater |less |match )")
_ABOUT_A_WHOLE_MODEL = ("value_error", "assertion_error")
_TAGS = ("kind", "stage")
"""Keys that select the class of a value, as `Field(discriminator=...)` names them."""


def first_error(error: ValidationError, value: object = None) -> str:
    """Describe the first problem of a validation error.

    Args:
        error: raised by `model_validate` or by a model's constructor.
        value: the value that was validated; it is needed if its class has a union by `kind`.

    Returns:
        One line without a full stop, for example
        `difficulty is 'impossible', expected 'easy', 'medium' or 'hard'`.
    """
    return all_errors(error, value)[0]


def all_errors(error: ValidationError, value: object = None) -> list[str]:
    """Describe every problem of a validation error as `first_error` does, in pydantic's order."""
    return [
        _sentence(details, path_of(details, value), error.title)
        for details in error.errors(include_url=False)
    ]


def path_of(details: ErrorDetails, value: object) -> tuple[str | int, ...]:
    """Return the keys and indices that lead to the wrong part of a value.

    Pydantic's own location also has the tag of every union on the way, for example `random` in
    `train.model.random.num_heads`. An error about a tag is located at its key.

    Args:
        details: one error of a validation error.
        value: the value that was validated.
    """
    path: list[str | int] = []
    at_tag = False
    whole = details["type"] in _ABOUT_A_WHOLE_MODEL
    for number, part in enumerate(details["loc"], start=1):
        if isinstance(value, Mapping) and not at_tag:
            tags = [value[key] for key in _TAGS if key in value]
            # Without a tag in the value, its class is a default; the location has its tag anyway.
            ends = number == len(details["loc"]) and not whole
            at_tag = part in tags if tags else part not in value and not ends
            if at_tag:
                continue
        at_tag = False
        path.append(part)
        value = _child(value, part)
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(details["ctx"]["discriminator"].strip("'"))
    return tuple(path)


def _child(value: object, part: str | int) -> object:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def decode_error(error: ValueError) -> str:
    """Describe an error of a msgspec JSON decoder, for example `steps.0.i: expected int`.

    Args:
        error: raised by a msgspec decoder; a UnicodeDecodeError if the text is not UTF-8.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not UTF-8, expected UTF-8 text"
    message, _, path = str(error).partition(" - at `")
    message = message.replace("`", "")
    where = path.rstrip("`").lstrip("$.").replace("[", ".").replace("]", "")
    if found := _FIELD.fullmatch(message):
        field = ".".join(filter(None, (where, found[2])))
        if found[1] == "missing required":
            return f"{field} is missing, expected every required key"
        return f"{field} is an unknown key, expected only known keys"
    message = message[0].lower() + message[1:]
    return f"{where}: {message}" if where else f"{message}, expected one JSON object"


def look_up(table: Mapping[str, Row], name: str, what: str) -> Row:
    """Return a row of a table by its name.

    Args:
        table: name -> row.
        name: name of the row.
        what: kind of row, used in the error message, such as `recipe`.

    Raises:
        SpecError: the table has no row of this name; the message lists the known names.
    """
    if name not in table:
        known = ", ".join(sorted(table))
        raise SpecError(f"{what} {name!r} is unknown, expected one of: {known}")
    return table[name]


def shorten(value: object, length: int = _SHOWN) -> str:
    """Return the repr of a value on one line, cut to `length` characters, for error messages."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= length else text[: length - 3] + "..."


def _sentence(details: ErrorDetails, path: tuple[str | int, ...], title: str) -> str:
    where = ".".join(map(_step, path))
    if details["type"] == "union_tag_invalid":
        tag, expected = shorten(details["ctx"]["tag"]), details["ctx"]["expected_tags"]
        return f"{where} is {tag}, expected {expected.replace(', ', ' or ')}"
    if details["type"] in ("missing", "union_tag_not_found"):
        return f"{where} is missing, expected every required key of {title}"
    if details["type"] == "extra_forbidden":
        return f"{where} is an unknown key, expected only keys of {title}"
    message = _expectation(details)
    if not where:
        return message
    if details["type"] in _ABOUT_A_WHOLE_MODEL and isinstance(
        details["input"], Mapping | BaseModel
    ):
        return f"{where}: {message}"  # a validator of the whole model names the fields itself
    separator = ", " if message.startswith("expected ") else ": "
    return f"{where} is {shorten(details['input'])}{separator}{message}"


def _step(part: str | int) -> str:
    """Return a part of a location; quote it if it is not a plain word."""
    name = str(part)
    return name if _PLAIN.fullmatch(name) else shorten(name)


def _expectation(details: ErrorDetails) -> str:
    """Rewrite pydantic's message: `Input should be X` becomes `expected X`."""
    message = " ".join(details["msg"].split())
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if _SHOULD.match(message):
        message = _SHOULD.sub("expected ", message, count=1)
        message = _BARE.sub("expected a value ", message)
        message = message.replace("a value match pattern", "a value that matches")
    return message
