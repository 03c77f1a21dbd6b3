"""Read runs from the artifact store for their web pages.

No file content can make a page fail. For a truncated or unrelated file, the page shows a message
next to the parts that could be read. Only files in the run's own folder and files that its records
name are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError
from tuneloop.history.stored import StoredRun, read_run
from tuneloop.storage import files
from tuneloop.store.dependencies import Service
from tuneloop.store.web.render import problem

MAX_METRICS_BYTES = 32 << 20
"""Size limit of metrics.jsonl, which allows about 100,000 steps."""
CURVE_WIDTH, CURVE_HEIGHT, CURVE_POINTS = 600, 120, 300


@dataclass(frozen=True)
class Curve:
    """The loss curve of a training run, as a line and as text."""

    points: str
    """Points of an SVG polyline within CURVE_WIDTH by CURVE_HEIGHT; loss 0 is at the bottom."""
    validation: str
    """Points of the validation loss in the same picture; empty without validation."""
    highest: float
    """The highest loss, which is at the top."""
    steps: int
    words: str
    """A description of the curve."""


def list_run_ids(service: Service) -> list[str]:
    """List the names of all folders that can be runs, sorted."""
    found = files.list_folders(layout.runs_prefix(service.artifacts))
    return [name for name in found if is_key(name)]


def find_run(service: Service, run_id: str, *, verify: bool = False) -> StoredRun | None:
    """Read a run with its stages; returns None if there is no such run.

    Args:
        service: the state of the store, with the artifacts prefix.
        run_id: id of the run, which is the name of its folder.
        verify: check every file that a record names, which takes one request per file.
    """
    if not is_key(run_id):
        return None
    return read_run(
        service.artifacts,
        run_id,
        now=service.clock(),
        verify=verify,
        describe=lambda error: problem(error, service),
    )


def read_output(record: Record, name: str, artifacts: str, limit_bytes: int) -> bytes:
    """Read and verify an output of a stage.

    Raises:
        DataError: the file is missing, was changed, or is too large for a page.
    """
    file = record.output(name)
    if file.size_bytes > limit_bytes:
        raise DataError(
            f"{file.path}: the file has {file.size_bytes} bytes, expected at most {limit_bytes} for"
            " a page; download it instead"
        )
    return records.read_output(file, artifacts)


def load_curve(train: Record, artifacts: str) -> Curve | None:
    """Read the loss of each step; returns None if there are too few steps for a line.

    Raises:
        DataError: metrics.jsonl is missing or invalid.
    """
    data = read_output(train, "metrics.jsonl", artifacts, MAX_METRICS_BYTES)
    losses: list[float] = []
    validations: dict[int, float] = {}
    for number, line in jsonl.iter_jsonl(io.BytesIO(data), "metrics.jsonl"):
        if isinstance(validation := line.get("validation_loss"), float):
            validations[0 if line.get("step") == 0 else len(losses) + 1] = validation
        if line.get("step") == 0:
            continue  # only the validation loss before training
        loss = line.get("loss")
        if not isinstance(loss, float):
            raise DataError(
                f"metrics.jsonl:{number}: found no loss, expected a number; restore the file"
            )
        losses.append(loss)
    return _draw(losses, validations) if len(losses) > 1 else None


def _draw(losses: Sequence[float], validations: Mapping[int, float]) -> Curve:
    """Draw the loss of each step, and the validation losses by the number of finished steps."""
    last = len(losses) - 1
    lowest, highest = min(losses), max(*losses, *validations.values())
    count = min(len(losses), CURVE_POINTS)
    shown = [round(n * last / (count - 1)) for n in range(count)]
    scale = CURVE_HEIGHT / (highest if highest > 0 else 1.0)

    def points(values: Iterable[tuple[int, float]]) -> str:
        return " ".join(
            f"{CURVE_WIDTH * min(n, last) / last:.1f},{CURVE_HEIGHT - max(value, 0.0) * scale:.1f}"
            for n, value in values
        )

    words = (
        f"Loss by step: {losses[0]:.3g} at step 1, {losses[-1]:.3g} at step {last + 1}; lowest"
        f" {lowest:.3g} at step {losses.index(lowest) + 1}."
    )
    if validations:
        best = min(validations, key=lambda step: (validations[step], step))
        words += f" Validation loss: lowest {validations[best]:.3g} after step {best}."
    drawn = points((n, losses[n]) for n in shown)
    return Curve(drawn, points(validations.items()), highest, last + 1, words)
