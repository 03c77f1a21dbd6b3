"""Operations and memory traffic of a training step, and the time that they take at least."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import Chip
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.parameters import (
    adapter_count,
    block_size,
    embedding_size,
    parameter_count,
)

_FORWARD = 2
"""Operations per weight and token of the forward pass: one multiplication, one addition."""
_HEAD_LOGITS = 2
"""Times that the logits are computed: once for the loss, once for its gradient."""


@dataclass(frozen=True)
class StepWork:
    """Operations and traffic of one step, on all devices together."""

    flops: float
    """Floating point operations, with what is computed again and as if every position had a
    target."""
    traffic_bytes: float
    """Bytes that all devices together move between their memory and their processors, at least."""

    def seconds(self, chip: Chip, devices: int) -> float | None:
        """Return the least time of a step on these devices, without exchange of data between them.

        Returns:
            The larger of operations / peak rate and bytes / bandwidth; None if the table of
            accelerators does not state them for this chip.
        """
        if chip.flops_per_second is None or chip.bytes_per_second is None:
            return None
        return max(
            self.flops / (devices * chip.flops_per_second),
            self.traffic_bytes / (devices * chip.bytes_per_second),
        )


def step_work(train: TrainSpec, architecture: Architecture, devices: int) -> StepWork:
    """Count the operations and the traffic of a step.

    Args:
        train: method, number format, remat and sizes.
        architecture: family and shape of the model.
        devices: devices that share the step; each of them reads all weights.
    """
    tokens = train.batch_size * train.max_length_tokens
    return StepWork(
        flops=float(tokens * _flops_per_token(train, architecture)),
        traffic_bytes=float(_traffic_bytes(train, architecture, devices)),
    )


def _flops_per_token(train: TrainSpec, architecture: Architecture) -> int:
    a = architecture
    blocks = a.num_layers * block_size(a)
    # Scores and weighted sum; all positions are computed, also those that the mask excludes.
    attention = a.num_layers * 2 * _FORWARD * train.max_length_tokens * a.num_heads * a.head_dim
    method = train.method
    is_full = not isinstance(method, LoraMethod)
    again = 0 if train.remat == "none" else 1
    # The backward pass computes gradients by the inputs, and by the weights if they are trained.
    passes = 1 + again + (2 if is_full else 1)
    flops = passes * _FORWARD * blocks + (3 + again) * attention
    if isinstance(method, LoraMethod):
        flops += (3 + again) * _FORWARD * adapter_count(a, method)
    head_passes = _HEAD_LOGITS + (2 if is_full else 1)
    return flops + head_passes * _FORWARD * embedding_size(a)


def _traffic_bytes(train: TrainSpec, architecture: Architecture, devices: int) -> int:
    """Count what cannot stay in the processor: weights, optimizer state and layer outputs."""
    a, parts = architecture, train.accumulation_steps
    width = 2 if train.dtype == "bfloat16" else 4
    weights = parameter_count(a)
    trained = adapter_count(a, train.method) if isinstance(train.method, LoraMethod) else weights
    # Each device reads the weights of all layers in the forward and in the backward pass.
    passes = (2 if train.remat == "none" else 3) * parts * devices * weights * width
    # Master weights and two moments are read and written, gradients written and read.
    update = trained * 4 * 8
    tokens = train.batch_size * train.max_length_tokens
    outputs = 4 * a.hidden_dim + 6 * a.embed_dim + 4 * (a.num_heads + a.num_kv_heads) * a.head_dim
    scores = 4 * a.num_heads * train.max_length_tokens
    # Layer outputs are written by the forward pass and read by the backward pass.
    return passes + update + 2 * tokens * a.num_layers * (outputs + scores) * width
