"""What the verbs that run stages print about a run: results of its stages by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.results import (
    EvalResults,
    SampleCounts,
    SampleResults,
    ScoreCounts,
    ScoreResults,
    TrainResults,
)
from tuneloop.storage import paths

if TYPE_CHECKING:
    from tuneloop.artifacts.records import Record
    from tuneloop.runs.results import StageResult


def run_summary(artifacts: str, run_id: str, stages: Sequence[StageResult]) -> dict[str, Any]:
    """Return the results of a run, for `--json`."""
    run = layout.run_prefix(artifacts, run_id)
    summary: dict[str, Any] = {
        "run_id": run_id,
        "artifacts": artifacts,
        "stages": [
            {"name": r.name, "state": r.state, "seconds": round(r.seconds, 3)} for r in stages
        ],
    }
    for result in stages:
        if result.name in PARTS:
            summary |= PARTS[result.name](result.record, run)
    return summary


def _training(record: Record, run: str) -> dict[str, Any]:
    results = record.results_as(TrainResults)
    return {"loss": {"first": results.loss_first, "last": results.loss_last}}


def _evaluation(record: Record, run: str) -> dict[str, Any]:
    results = record.results_as(EvalResults)
    return {
        "accuracy": {"base": results.accuracy_base, "tuned": results.accuracy_tuned},
        "report": paths.join(run, "delta_report.md"),
    }


def _sampling(record: Record, run: str) -> dict[str, Any]:
    results = record.results_as(SampleResults).model_dump(mode="json")
    return {
        "samples": record.counts_as(SampleCounts).model_dump(mode="json") | results,
        "report": paths.join(run, "sampling_report.md"),
    }


def _scoring(record: Record, run: str) -> dict[str, Any]:
    results = record.results_as(ScoreResults).model_dump(mode="json")
    return {
        "scores": record.counts_as(ScoreCounts).model_dump(mode="json") | results,
        "file": paths.join(run, "scores.jsonl"),
    }


PARTS: dict[str, Callable[[Record, str], dict[str, Any]]] = {
    "train": _training,
    "eval": _evaluation,
    "sample": _sampling,
    "score": _scoring,
}
"""Stage -> function (record, folder of the run) -> keys of the summary."""


def headline(summary: dict[str, Any]) -> str:
    """Return the main result of a run in one line."""
    if (accuracy := summary.get("accuracy")) is not None:
        return f"accuracy {100 * accuracy['base']:.1f} % -> {100 * accuracy['tuned']:.1f} %"
    if (scores := summary.get("scores")) is not None:
        mean = "" if scores["mean"] is None else f", mean score {scores['mean']:.3f}"
        return f"{scores['scored']} of {scores['traces']} traces scored{mean}"
    samples = summary["samples"]
    return f"{samples['samples']} samples, mean reward {samples['mean_reward']:.3f}"
