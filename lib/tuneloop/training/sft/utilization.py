"""Model FLOPs utilization (MFU): the share of the devices' peak rate that a model uses."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import MethodSpec
from tuneloop.training.data.batches import Batch
from tuneloop.training.sizing.model_flops import model_flops


@dataclass(frozen=True)
class Utilization:
    """Computes the MFU of a step."""

    architecture: Architecture
    """Family and shape of the model."""
    method: MethodSpec
    """What is trained."""
    peak_flops_per_second: float
    """Peak rate of all devices together."""

    def of_step(self, batch: Batch, seconds: float) -> float:
        """Return the MFU, 0 to 1, of a step that took this many seconds."""
        needed = model_flops(
            self.architecture, self.method, batch.example_lengths, batch.target_count
        )
        return needed / seconds / self.peak_flops_per_second
