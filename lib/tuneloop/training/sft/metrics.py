"""Read and write metrics.jsonl, the metrics of each optimizer step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tuneloop import jsonl
from tuneloop.storage import files, paths


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl."""

    step: int
    """Number of the optimizer step, from 1."""
    loss: float
    """Mean negative log-likelihood in nats per response token."""
    learning_rate: float
    """Learning rate used for this step's update."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Tokens in the batch, without padding."""
    step_seconds: float
    """Wall time since the previous step; the first step includes compilation."""


def metrics_url(resume_prefix: str) -> str:
    """Return the URL of metrics.jsonl below a prefix."""
    return paths.join(resume_prefix, "metrics.jsonl")


def dump_metrics(metrics: list[StepMetrics]) -> bytes:
    """Serialize metrics as JSON Lines."""
    return b"".join(jsonl.dump_line(asdict(row)) for row in metrics)


def write_metrics(resume_prefix: str, metrics: list[StepMetrics]) -> None:
    """Write metrics.jsonl, replacing an earlier one."""
    files.write(metrics_url(resume_prefix), dump_metrics(metrics))


def read_metrics(resume_prefix: str) -> list[StepMetrics]:
    """Read metrics.jsonl; returns an empty list if the file does not exist."""
    try:
        lines = files.read(metrics_url(resume_prefix)).splitlines()
    except FileNotFoundError:
        lines = []
    return [StepMetrics(**json.loads(line)) for line in lines]
