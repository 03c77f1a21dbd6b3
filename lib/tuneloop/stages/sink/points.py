"""Values for a metrics sink, made from metrics.jsonl and from records."""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tuneloop import jsonl
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import EvalCounts, EvalResults
from tuneloop.artifacts.training_metrics import CURVES


class Point(NamedTuple):
    """One value of one curve."""

    curve: str
    step: int
    value: float
    at_ms: int
    """When the value was measured, in milliseconds since 1970."""


def points_of_row(row: Mapping[str, Any], at_ms: int) -> Iterator[Point]:
    """Yield the values of one line of metrics.jsonl; those that are null are left out."""
    for key, curve in CURVES.items():
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            yield Point(curve, row["step"], float(value), at_ms)


def points_of_file(data: bytes, ended_at_ms: int) -> list[Point]:
    """Return all values of metrics.jsonl.

    Args:
        data: the file.
        ended_at_ms: end of the training; the times of the steps are counted back from it.

    Raises:
        DataError: a line is no JSON object.
    """
    rows = [row for _, row in jsonl.iter_jsonl(io.BytesIO(data), "metrics.jsonl")]
    at_ms = ended_at_ms - sum(_milliseconds(row) for row in rows)
    points: list[Point] = []
    for row in rows:
        at_ms += _milliseconds(row)
        points += points_of_row(row, round(at_ms))
    return points


def points_of_evaluation(record: Record) -> list[Point]:
    """Return the main figures of a record of the eval stage."""
    counts, results = record.counts_as(EvalCounts), record.results_as(EvalResults)
    figures: dict[str, float | None] = {
        "accuracy_base": results.accuracy_base,
        "accuracy_tuned": results.accuracy_tuned,
        "accuracy_gain": results.accuracy_tuned - results.accuracy_base,
        "accuracy_gain_low": results.gain_low,
        "accuracy_gain_high": results.gain_high,
        "items": counts.items,
        "regressions": counts.regressions,
        "guard_kept_low": results.guard_kept_low,
        "guard_kept_high": results.guard_kept_high,
    }
    if counts.guard_base_correct:
        figures["guard_kept"] = counts.guard_kept / counts.guard_base_correct
    at_ms = ended_at_ms(record)
    return [
        Point(f"eval/{name}", 0, float(value), at_ms)
        for name, value in figures.items()
        if value is not None
    ]


def ended_at_ms(record: Record) -> int:
    """Return when a record was written, in milliseconds since 1970."""
    started = datetime.datetime.fromisoformat(record.started_at)
    return round((started.timestamp() + record.seconds) * 1000)


def _milliseconds(row: Mapping[str, Any]) -> float:
    return 1000 * float(row.get("step_seconds") or 0.0)
