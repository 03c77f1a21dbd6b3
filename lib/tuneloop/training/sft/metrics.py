"""The history of a training, and metrics.jsonl, which stores it."""

from __future__ import annotations

import json
import logging
import math
import re
import resource
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from tuneloop import jsonl
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import read_sealed_lines, seal_lines

log = logging.getLogger(__name__)

MEASURED = (
    "step_seconds",
    "tokens_per_second",
    "host_memory_bytes",
    "device_memory_bytes",
    "data_wait_seconds",
    "compile_seconds",
    "mfu",
)
"""Fields of StepMetrics that differ between two runs of the same spec."""
_PEAK_KIB = re.compile(rb"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step; a line of metrics.jsonl."""

    step: int
    """Number of the optimizer step, from 1."""
    loss: float
    """Mean negative log-likelihood in nats per response token, before this step's update."""
    learning_rate: float
    """Learning rate used for this step's update."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Tokens in the batch, without padding."""
    padding_share: float
    """Share of the batch, 0 to 1, that is padding."""
    step_seconds: float
    """Wall time since the previous step, without validation; the first step of a process includes
    compilation."""
    tokens_per_second: float
    """`tokens` per second of `step_seconds`."""
    host_memory_bytes: int
    """Largest resident memory of this process so far."""
    device_memory_bytes: int | None
    """Largest memory in use on a device of this process so far; null if the backend, such as a
    CPU's, does not report it."""
    data_wait_seconds: float | None = None
    """Time that the loop spent on making this step's batch and placing it on the devices, which
    compute the previous step meanwhile; null in files of earlier versions."""
    compile_seconds: float | None = None
    """Part of `step_seconds` in which XLA compiled programs, or read them from the compilation
    cache; 0 once all are there; null in files of earlier versions."""
    mfu: float | None = None
    """Model FLOPs utilization, 0 to 1: operations that the model needs for this batch, without
    recomputation and padding, per second of `step_seconds` and as a share of the devices' peak
    rate in bfloat16; null if that is unknown, as on a CPU."""
    validation_loss: float | None = None
    """Validation loss after this step's update; null if it was not computed."""


@dataclass
class History:
    """All steps and validations so far, including those of earlier processes."""

    steps: list[StepMetrics] = field(default_factory=list)
    """Metrics of the steps 1, 2, ..."""
    validation_losses: dict[int, float] = field(default_factory=dict)
    """Number of finished steps -> validation loss; 0 is the model before training."""

    def add(self, row: StepMetrics) -> StepMetrics:
        """Append the next step, with its validation loss if that is known; returns the row."""
        row = replace(row, validation_loss=self.validation_losses.get(row.step))
        self.steps.append(row)
        return row

    def add_validation(self, step: int, loss: float) -> None:
        """Note the validation loss after a step, whose metrics may follow later."""
        self.validation_losses[step] = loss
        if 0 < step <= len(self.steps):
            self.steps[step - 1] = replace(self.steps[step - 1], validation_loss=loss)

    def cut(self, step: int) -> None:
        """Forget everything after a step."""
        del self.steps[step:]
        self.validation_losses = {s: v for s, v in self.validation_losses.items() if s <= step}

    def best_step(self) -> int | None:
        """Return the first step with the lowest validation loss; None if none was validated.

        The model before training is not a candidate.
        """
        trained = {step: loss for step, loss in self.validation_losses.items() if step}
        return min(trained, key=lambda step: (trained[step], step)) if trained else None

    def validations_since_best(self) -> int:
        """Count the validations after the best one."""
        best = self.best_step()
        return 0 if best is None else sum(step > best for step in self.validation_losses)


def memory_bytes() -> tuple[int, int | None]:
    """Return the peak memory of this process so far, on the host and on its fullest device."""
    host = _host_peak_bytes()
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in found if "peak_bytes_in_use" in stats]
    return host, max(peaks, default=None)


def _host_peak_bytes() -> int:
    if sys.platform == "linux":
        # Linux counts into `ru_maxrss` what the parent had in use when it started this process.
        peak = _PEAK_KIB.search(Path("/proc/self/status").read_bytes())
        if peak is not None:
            return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def dump_metrics(history: History) -> bytes:
    """Serialize the history as JSON Lines.

    With validation, the first line is `{"step":0,"validation_loss":...}`, the loss before training.
    """
    lines = [jsonl.dump_line(asdict(row)) for row in history.steps]
    if 0 in history.validation_losses:
        first = {"step": 0, "validation_loss": history.validation_losses[0]}
        lines.insert(0, jsonl.dump_line(first))
    return b"".join(lines)


def dump_history(history: History) -> bytes:
    """Serialize the history of an unfinished training: the lines of `dump_metrics`, with seals.

    Training goes on from these numbers, which choose the best step and decide when to stop.
    """
    values = map(json.loads, dump_metrics(history).splitlines())
    return b"".join(map(jsonl.dump_line, seal_lines(values)))


def parse_metrics(data: bytes) -> History:
    """Read the lines of `dump_metrics`."""
    return _history_of(json.loads(line) for line in data.splitlines())


def _history_of(values: Iterable[dict[str, Any]]) -> History:
    history = History()
    for value in values:
        if value["step"]:
            history.steps.append(StepMetrics(**value))
        if value["validation_loss"] is not None:
            history.validation_losses[value["step"]] = value["validation_loss"]
    return history


def metrics_url(resume_prefix: str) -> str:
    """Return the URL of metrics.jsonl below a prefix."""
    return paths.join(resume_prefix, "metrics.jsonl")


def read_history(resume_prefix: str) -> History:
    """Read the metrics of an unfinished training, up to the first damaged line.

    A damaged line is logged. The checkpoints after it have no metrics, so they are not used.

    Returns:
        The history; an empty one if the file does not exist.
    """
    url = metrics_url(resume_prefix)
    try:
        values, damaged = read_sealed_lines(files.read(url))
    except FileNotFoundError:
        return History()
    try:
        history = _history_of(values)
    except (KeyError, TypeError):
        log.warning("%s: holds no metrics, so its training starts again", url)
        return History()
    if damaged is not None:
        log.warning(
            "%s:%d: was changed after it was written; going on with the %d steps before",
            url,
            damaged,
            len(history.steps),
        )
    return history


def is_finite(*values: float) -> bool:
    """Return whether no value is infinite or NaN."""
    return all(map(math.isfinite, values))
