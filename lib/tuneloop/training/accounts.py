"""What becomes of every trace: an example, or an exclusion with its reason.

One rule: traces in = examples out + listed exclusions. Whoever leaves a trace out says so here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import msgspec

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
"""Why a trace gives no example; of several, the first that was found."""
REASONS: tuple[Reason, ...] = get_args(Reason)

Split = Literal["train", "validation"]
"""Where an example goes."""
SPLITS: tuple[Split, ...] = get_args(Split)


class Refused(NamedTuple):
    """Why a trace cannot be an example."""

    reason: Reason
    detail: str


class Exclusion(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of exclusions.jsonl; fields in sorted order."""

    detail: str
    """What was found, in words."""
    reason: str
    """One of `REASONS`."""
    row: int
    """Which row of the dataset it is, from 0."""
    trace_id: str
