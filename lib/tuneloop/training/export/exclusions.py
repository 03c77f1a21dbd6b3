"""Exclusions, and the balance of an export: traces in = examples out + listed exclusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from tuneloop.errors import DataError
from tuneloop.training.schema import REASONS

Split = Literal["train", "validation"]
"""Where an example goes."""
SPLITS: tuple[Split, ...] = get_args(Split)


class Exclusion(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of exclusions.jsonl; fields in sorted order."""

    detail: str
    """What was found, in words."""
    reason: str
    """One of `REASONS`."""
    row: int
    """Which row of the dataset it is, from 0."""
    trace_id: str


def balance(
    outcomes: Mapping[str, int],
    written: Mapping[str, int],
    traces: Mapping[str, int],
    place: str,
) -> dict[str, int]:
    """Check that every trace is an example or a listed exclusion, once.

    Args:
        outcomes: from the outcome tables, how many traces ended as which split or reason.
        written: lines of the files by split, and those of exclusions.jsonl as `excluded`.
        traces: how many there are, by source of the number.
        place: the dataset, as an error should name it.

    Returns:
        The record's counts: `examples`, `validation_examples`, `excluded` and one by reason.

    Raises:
        DataError: a trace is missing or counted twice, or no example is left.
    """
    excluded = {reason: outcomes.get(reason, 0) for reason in REASONS}
    examples: dict[str, int] = {split: outcomes.get(split, 0) for split in SPLITS}
    accounted = {**examples, "excluded": sum(excluded.values())}
    if written != accounted or {*traces.values()} != {sum(accounted.values())}:
        raise DataError(
            f"{place}: traces are {dict(traces)}, accounted for as {accounted}, written as"
            f" {dict(written)}; delete the records of the stage's shards and run it again"
        )
    if not examples["train"]:
        raise DataError(
            f"{place}: no example is left to train on, of {sum(accounted.values())} traces"
            f" {excluded}; change the export's rules or the dataset"
        )
    return {
        "examples": examples["train"],
        "validation_examples": examples["validation"],
        "excluded": accounted["excluded"],
        **{f"excluded_{reason}": count for reason, count in excluded.items()},
    }
