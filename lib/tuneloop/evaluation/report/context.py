"""What a report takes from the records of the export and of the training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tuneloop.artifacts.evaluation.delta_report import ExportAccounts, Training
from tuneloop.artifacts.results import ExportCounts, ExportResults, TrainCounts, TrainResults
from tuneloop.artifacts.training_metrics import Metrics

MAX_POINTS = 400
"""Points of a curve; more cannot be seen."""


def training_of(metrics: Metrics, counts: TrainCounts, results: TrainResults) -> Training:
    """Summarise a training.

    Args:
        metrics: its metrics.jsonl.
        counts: counts of its record.
        results: results of its record.
    """
    return Training(
        losses=_thinned(list(enumerate(metrics.losses, start=1))),
        validations=_thinned(sorted(metrics.validations.items())),
        kept_step=counts.kept_step or None,
        stopped_early=results.stopped_early,
    )


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Keep at most MAX_POINTS finite points, evenly chosen, with the first and the last."""
    finite = [one for one in points if math.isfinite(one[1])]
    if len(finite) <= MAX_POINTS:
        return tuple(finite)
    last = len(finite) - 1
    return tuple(finite[round(n * last / (MAX_POINTS - 1))] for n in range(MAX_POINTS))


def accounts_of(counts: ExportCounts, results: ExportResults) -> ExportAccounts:
    """Summarise what an export kept and dropped."""
    excluded = {
        name.removeprefix("excluded_"): count
        for name, count in _fields(counts)
        if name.startswith("excluded_") and count
    }
    return ExportAccounts(
        traces=counts.traces,
        examples=counts.examples,
        validation_examples=counts.validation_examples,
        excluded=excluded,
        truncated=counts.truncated,
        lengths=results.lengths,
    )


def _fields(counts: ExportCounts) -> Iterable[tuple[str, int]]:
    return ((name, getattr(counts, name)) for name in type(counts).model_fields)
