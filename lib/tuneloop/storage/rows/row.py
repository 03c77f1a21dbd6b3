"""One record of a file, or the reason why it cannot be read."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One record of a file."""

    place: str
    """Location of the record for error messages, as `FILE:line` or `FILE: row N`."""
    value: dict[str, Any] | None
    """The record as a JSON object; None if it could not be read."""
    problem: str | None = None
    """Why the record could not be read, as a sentence with its place."""
    text: str | None = None
    """The record as it is in the file, if it could not be read."""
