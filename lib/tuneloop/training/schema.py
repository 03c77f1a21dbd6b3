"""Training examples, and the reasons for excluding a trace from training.

Examples are derived from traces and a dataset manifest. They are stored as files and never as
database rows. To add an exclusion reason, add it to `Reason` and return it where you detect it.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, UnsetType

from tuneloop.errors import DataError
from tuneloop.training.conversation import Conversation
from tuneloop.validation import decode_error

Reason = Literal[
    "contaminated",
    "duplicate",
    "empty_response",
    "filtered",
    "invalid",
    "near_duplicate",
    "no_trainable_tokens",
    "not_renderable",
    "over_length",
]
"""Why a trace is excluded from training. If several reasons apply, the first one found is used."""
REASONS: tuple[Reason, ...] = get_args(Reason)


_NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class TrainingExample(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True
):
    """One prompt and response pair. The fields are sorted, which makes the JSON canonical."""

    conversation: Conversation | UnsetType = UNSET
    """Whole conversation that is trained on, if there is more than a prompt and a response: earlier
    turns, a system text, tools, calls, or a thinking block. Its last messages repeat prompt and
    response."""
    id: _NotEmpty
    """uuid5 of (dataset build id, trace id, recipe), so that exports repeat the same ids."""
    metadata: dict[str, msgspec.Raw] = {}
    """The trace's meta with provenance keys added; the values are kept as raw JSON."""
    prompt: _NotEmpty
    """User text, instruction included, before the chat template is applied."""
    response: _NotEmpty
    """Expected model output, before the chat template is applied. A conversation that ends with
    calls of tools has these as text."""

    @property
    def is_pair(self) -> bool:
        """Return whether prompt and response are all that the model reads and writes."""
        return self.conversation is UNSET or self.conversation.is_pair()


class Refused(NamedTuple):
    """Why a trace is excluded from training."""

    reason: Reason
    detail: str


_decoder = msgspec.json.Decoder(TrainingExample)


def parse_example(line: bytes, place: str) -> TrainingExample:
    """Validate one line of an example shard.

    Args:
        line: JSON of one example, with or without a line end.
        place: location of the line for error messages, as `URL:line`.

    Raises:
        DataError: the line is not a valid training example.
    """
    try:
        return _decoder.decode(line)
    except ValueError as e:  # msgspec.DecodeError or UnicodeDecodeError
        raise DataError(f"{place}: {decode_error(e)}; export the dataset again") from e
