"""Read metrics.jsonl of a training without JAX: for pages, and for comparing runs."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneloop import jsonl
from tuneloop.errors import DataError

CURVES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "padding_share": "train/padding_share",
    "tokens_per_second": "train/tokens_per_second",
    "mfu": "train/mfu",
    "step_seconds": "time/step_seconds",
    "data_wait_seconds": "time/data_wait_seconds",
    "compile_seconds": "time/compile_seconds",
    "host_memory_bytes": "memory/host_bytes",
    "device_memory_bytes": "memory/device_bytes",
    "validation_loss": "validation/loss",
}
"""Key of a line of metrics.jsonl -> name of its curve in TensorBoard and in a metrics sink."""


@dataclass(frozen=True)
class Metrics:
    """What is shown of metrics.jsonl."""

    losses: Sequence[float] = ()
    """Loss of the steps 1, 2, ..."""
    validations: Mapping[int, float] = field(default_factory=dict)
    """Number of finished steps -> validation loss."""
    speeds: Sequence[float] = ()
    """Tokens per second of each step; empty if a line has none."""
    host_memory_bytes: int | None = None
    """Peak memory of the host at the last step."""
    device_memory_bytes: int | None = None
    """Peak memory of the fullest device at the last step."""

    @property
    def tokens_per_second(self) -> float | None:
        """Median of the last 20 steps; None if unknown."""
        last = sorted(self.speeds[-20:])
        return last[len(last) // 2] if last else None


def parse_metrics(data: bytes) -> Metrics:
    """Read metrics.jsonl, of any version.

    Raises:
        DataError: a line is no JSON object, or has no loss.
    """
    # Arrays, because the metrics of runs that people watch stay in memory.
    losses, speeds = array("d"), array("d")
    validations: dict[int, float] = {}
    line: dict[str, Any] = {}
    for number, line in jsonl.iter_jsonl(io.BytesIO(data), "metrics.jsonl"):
        if (validation := _number(line.get("validation_loss"))) is not None:
            validations[0 if line.get("step") == 0 else len(losses) + 1] = validation
        if line.get("step") == 0:
            continue  # only the validation loss before training
        if (loss := _number(line.get("loss"))) is None:
            raise DataError(
                f"metrics.jsonl:{number}: found no loss, expected a number; restore the file"
            )
        losses.append(loss)
        speed = _number(line.get("tokens_per_second"))
        if speed is not None and math.isfinite(speed):
            speeds.append(speed)
    return Metrics(
        losses,
        validations,
        speeds if len(speeds) == len(losses) else (),
        _count(line.get("host_memory_bytes")),
        _count(line.get("device_memory_bytes")),
    )


def _number(value: Any) -> float | None:
    """Return a number as a float: JSON writers other than Python's write 9.0 as 9."""
    if type(value) is float or (type(value) is int and abs(value) <= 2**53):
        return float(value)
    return None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
