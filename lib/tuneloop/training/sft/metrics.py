"""Metrics of each optimizer step: metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tuneloop import jsonl
from tuneloop.storage import files, paths


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl."""

    step: int
    """From 1."""
    loss: float
    """Mean negative log-likelihood, nats a response token."""
    learning_rate: float
    """Of this update."""
    grad_norm: float
    """Global norm before clipping."""
    tokens: int
    """In the batch, padding apart."""
    step_seconds: float
    """Wall time since the step before; the first one holds the compilation."""


def metrics_url(resume_prefix: str) -> str:
    """Return where the metrics so far are kept below a prefix."""
    return paths.join(resume_prefix, "metrics.jsonl")


def dump_metrics(metrics: list[StepMetrics]) -> bytes:
    """Serialize metrics.jsonl."""
    return b"".join(jsonl.dump_line(asdict(row)) for row in metrics)


def write_metrics(resume_prefix: str, metrics: list[StepMetrics]) -> None:
    """Write the metrics so far."""
    files.write(metrics_url(resume_prefix), dump_metrics(metrics))


def read_metrics(resume_prefix: str) -> list[StepMetrics]:
    """Read the metrics so far; empty if there are none."""
    try:
        lines = files.read(metrics_url(resume_prefix)).splitlines()
    except FileNotFoundError:
        lines = []
    return [StepMetrics(**json.loads(line)) for line in lines]
