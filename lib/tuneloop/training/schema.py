"""What a trace becomes for training: a TrainingExample, or a refusal with its reason.

Examples are derived from traces and a dataset manifest. They are files, never rows of the database.
To add an exclusion reason, add it to `Reason` and return it where you detect it.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from tuneloop.errors import DataError
from tuneloop.validation import decode_error

Reason = Literal[
    "contaminated",
    "duplicate",
    "empty_response",
    "filtered",
    "invalid",
    "near_duplicate",
    "no_trainable_tokens",
    "over_length",
]
"""Why a trace makes no example; the first reason found, if there are several."""
REASONS: tuple[Reason, ...] = get_args(Reason)


_NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class TrainingExample(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True
):
    """One prompt/response pair; fields in sorted order, so that encoding them is canonical."""

    id: _NotEmpty
    """uuid5 of (dataset build, trace id, recipe): the same trace gives the same id every time."""
    metadata: dict[str, msgspec.Raw] = {}
    """Provenance, and the trace's own meta below it; JSON values as they stand in the file."""
    prompt: _NotEmpty
    """What the user says, instruction included, before any chat rendering."""
    response: _NotEmpty
    """What the model should say, before any chat rendering."""


class Refused(NamedTuple):
    """Why a trace cannot be an example."""

    reason: Reason
    detail: str


_decoder = msgspec.json.Decoder(TrainingExample)


def parse_example(line: bytes, place: str) -> TrainingExample:
    """Validate one line of an example shard.

    Args:
        line: the line, with or without its line end.
        place: where it stands, as `URL:line`.

    Raises:
        DataError: it is no example.
    """
    try:
        return _decoder.decode(line)
    except ValueError as e:  # msgspec's, or UnicodeDecodeError
        raise DataError(f"{place}: {decode_error(e)}; export the dataset again") from e
