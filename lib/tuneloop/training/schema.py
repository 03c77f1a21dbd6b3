"""TrainingExample: what training reads; derived from a trace and its dataset, never in SQL."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tuneloop.errors import DataError
from tuneloop.validation import decode_error

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
