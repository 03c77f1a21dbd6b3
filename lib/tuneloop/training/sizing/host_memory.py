"""Host memory of a pod that trains, in closed form.

The terms follow from what the stage does; the constants were measured as peak resident memory of
train stages on a CPU. `docs/how-to/training.md` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.mesh import MeshSizes
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.memory import MemoryEstimate
from tuneloop.training.sizing.parameters import (
    adapter_count,
    block_matrices,
    embedding_size,
    parameter_count,
)

_FLOAT32 = 4
RUNTIME = 750 << 20
"""Python with JAX, Tunix and the programs of a small model."""
RUNTIME_OF_CHIPS = 2 << 30
"""The same with the runtime of GPUs or TPUs; an allowance, which was not measured."""
_UPLOAD = 3 * (32 << 20)
"""Files of a checkpoint that are on their way to the store."""
_CPU_COPIES = 1
"""Copies of all weights in float32 that a CPU needs beside a step: those of loading."""
_CPU_ADAPTER_COPIES = 5
"""The same with adapters, at the end, when the merged model and the adapter are read again and
compared with the base."""


@dataclass(frozen=True)
class HostMemory:
    """Memory of one pod of the train stage in bytes, by what it is for."""

    runtime: int
    """Python, JAX and compiled programs."""
    model: int
    """On a CPU, a training step and copies of the weights; otherwise the largest weight, which
    passes through the host when it is loaded."""
    checkpoint: int
    """Copy of what the pod stores of a checkpoint, while it is uploaded."""

    @property
    def peak_bytes(self) -> int:
        """Largest memory in use at any moment."""
        return self.runtime + self.model + self.checkpoint


def estimate_host_memory(
    train: TrainSpec,
    architecture: Architecture,
    step: MemoryEstimate,
    mesh: MeshSizes,
    *,
    devices_per_host: int | None,
) -> HostMemory:
    """Estimate the host memory of one pod of the train stage.

    Args:
        train: method and number format.
        architecture: family and shape of the model.
        step: memory of one device in a training step.
        mesh: devices that share the step.
        devices_per_host: JAX devices of one host; None on a CPU, whose memory is the host's.
    """
    method = train.method
    if isinstance(method, LoraMethod):
        stored = 3 * _FLOAT32 * adapter_count(architecture, method)  # every host has all of them
    else:
        # Of devices with the same weights, one stores them.
        stored = step.argument_bytes * min(devices_per_host or 1, mesh.weight_shares)
    checkpoint = stored + _UPLOAD
    if devices_per_host is not None:
        # The array that is read, and its copy on the way to the device.
        model = 2 * _FLOAT32 * largest_weight(architecture)
        return HostMemory(RUNTIME_OF_CHIPS, model, checkpoint)
    copies = _CPU_ADAPTER_COPIES if isinstance(method, LoraMethod) else _CPU_COPIES
    weights = copies * _FLOAT32 * parameter_count(architecture)
    return HostMemory(RUNTIME, step.peak_bytes + weights, checkpoint)


def largest_weight(architecture: Architecture) -> int:
    """Return the number of elements of the largest weight."""
    blocks = (matrix.size for matrix in block_matrices(architecture).values())
    return max(embedding_size(architecture), *blocks)
