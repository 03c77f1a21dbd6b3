"""Excluded traces, and the check that every trace is either an example or a listed exclusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from tuneloop.errors import DataError
from tuneloop.training.schema import REASONS

Split = Literal["train", "validation"]
"""The set of examples that a trace belongs to."""
SPLITS: tuple[Split, ...] = get_args(Split)


class Exclusion(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of exclusions.jsonl. The fields are sorted, which makes the JSON canonical."""

    detail: str
    """Description of what was found."""
    reason: str
    """One of `REASONS`."""
    row: int
    """Row number in the dataset, from 0."""
    trace_id: str
    """Id of the excluded trace."""


def balance(
    outcomes: Mapping[str, int],
    written: Mapping[str, int],
    traces: Mapping[str, int],
    place: str,
) -> dict[str, int]:
    """Check that every trace became exactly one example or one listed exclusion.

    Args:
        outcomes: number of traces by outcome (a split or an exclusion reason), from the outcome
            tables.
        written: number of written lines by split, and those of exclusions.jsonl as `excluded`.
        traces: number of traces by the source of the number, such as the manifest; all must be
            equal.
        place: the dataset, for error messages.

    Returns:
        Counts for the record: `examples`, `validation_examples`, `excluded`, and
        `excluded_REASON` for each reason.

    Raises:
        DataError: a trace is missing or counted twice, or no example is left to train on.
    """
    excluded = {reason: outcomes.get(reason, 0) for reason in REASONS}
    examples: dict[str, int] = {split: outcomes.get(split, 0) for split in SPLITS}
    accounted = {**examples, "excluded": sum(excluded.values())}
    if written != accounted or {*traces.values()} != {sum(accounted.values())}:
        raise DataError(
            f"{place}: found {dict(traces)} traces, outcomes {accounted} and written lines"
            f" {dict(written)}, expected equal counts; delete the records of the stage's shards and"
            " run it again"
        )
    if not examples["train"]:
        raise DataError(
            f"{place}: found no example to train on among {sum(accounted.values())} traces"
            f" (excluded: {excluded}), expected at least one; change the export's rules or the"
            " dataset"
        )
    return {
        "examples": examples["train"],
        "validation_examples": examples["validation"],
        "excluded": accounted["excluded"],
        **{f"excluded_{reason}": count for reason, count in excluded.items()},
    }
