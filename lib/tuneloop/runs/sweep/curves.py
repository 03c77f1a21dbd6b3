"""Loss curves of members, and the median rule that stops those with a high validation loss."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.training_metrics import parse_metrics
from tuneloop.errors import DataError
from tuneloop.specs.sweep import MedianStop
from tuneloop.storage import files, paths

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Curve:
    """The losses of one training so far."""

    training: Mapping[int, float] = field(default_factory=dict)
    """Number of the step, from 1 -> training loss."""
    validation: Mapping[int, float] = field(default_factory=dict)
    """Number of finished steps -> validation loss; 0 is the model before training."""

    @property
    def steps(self) -> int:
        """Number of finished steps."""
        return max([0, *self.training, *self.validation])

    def best_until(self, step: int) -> float | None:
        """Return the lowest validation loss up to a step; None if nothing was validated yet."""
        return min((loss for at, loss in self.validation.items() if 0 < at <= step), default=None)


def read_curve(artifacts: str, run_id: str) -> Curve:
    """Read the losses of a run, finished or not; an empty curve if they cannot be read.

    Losses are shown and compared. A run whose file is missing or broken must not stop the others.
    """
    record = records.find(artifacts, run_id, "train")
    try:
        if record is not None:
            return parse_curve(records.read_output(record.output(METRICS), artifacts))
        prefix = layout.stage_prefix(artifacts, run_id, "train")
        return parse_curve(files.read(paths.join(prefix, "resume", METRICS)))
    except (FileNotFoundError, DataError):
        return Curve()


def parse_curve(data: bytes) -> Curve:
    """Read metrics.jsonl.

    Raises:
        DataError: a line is broken.
    """
    found = parse_metrics(data)
    return Curve(dict(enumerate(found.losses, start=1)), found.validations)


def hopeless(rule: MedianStop, own: Curve, others: Sequence[Curve]) -> str:
    """Return why a member should stop; empty if it should go on.

    The median stopping rule of Google Vizier (Golovin et al., KDD 2017), with the lowest loss so
    far in place of the running average, as in Optuna's MedianPruner.

    Args:
        rule: settings of the rule.
        own: curve of the member.
        others: curves of the other members, finished or not.
    """
    # A look is rarer than a validation, so the newest step may be one that no other has reached.
    steps = sorted((step for step in own.validation if step >= rule.min_steps), reverse=True)
    last = [max(each.validation, default=0) for each in others]
    step = next((s for s in steps if sum(at >= s for at in last) >= rule.min_members), None)
    if step is None or (best := own.best_until(step)) is None:
        return ""
    reached = [each for each, at in zip(others, last, strict=True) if at >= step]
    losses = [loss for each in reached if (loss := each.best_until(step)) is not None]
    if len(losses) < rule.min_members:
        return ""
    median = statistics.median(losses)
    if best <= median:  # False for NaN, which then stops the member
        return ""
    return (
        f"validation loss {best:.4g} after step {step} is above {median:.4g}, the median of"
        f" {len(losses)} other members"
    )
