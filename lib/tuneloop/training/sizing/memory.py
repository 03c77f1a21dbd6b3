"""Memory of one device in a training step, in closed form.

The largest part is in use when the loss is known: the outputs of all layers wait for the backward
pass, beside the weights. The numbers of arrays per layer were counted in programs that libtpu
compiled for v5e, v5p and v6e; tests compare the sum with the compiler's. Where memory is left, the
compiler gathers more weights of other devices at once, above all on tpu7x; where it is short, the
compiler recomputes what `remat` keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.mesh import MeshSizes
from tuneloop.specs.training.method import LoraMethod, QloraMethod
from tuneloop.specs.training.optimizer import AdafactorSpec, MuonSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.parameters import (
    adapted_size,
    adapter_count,
    block_matrices,
    block_size,
    embedding_size,
    parameter_count,
)

_MASTER = 4
"""Bytes of a float32 weight, gradient or moment."""
_BITS = {"nf4": 4, "int8": 8}
_FLOAT32 = 4
"""Bytes of an attention score, and of a number of the gradient of one tile of the LM head."""
_LANES = 128
"""Numbers of a register of a TPU; the last axis of an array is padded to a multiple of it."""
_TILE_PIECES = 16_384
"""Pieces of the vocabulary that the loss computes at a time; see `step/cross_entropy.py`."""

Platform = Literal["cpu", "gpu", "tpu"]


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one device in bytes, by what it is for."""

    weights: int
    """Weights, trained and frozen."""
    optimizer: int
    """State of the optimizer."""
    compute_copy: int
    """Weights in the number format of the computation, and those that other devices send."""
    gradients: int
    """Gradients of weights, with sums over parts of the batch."""
    activations: int
    """Outputs of layers that the backward pass needs."""

    @property
    def argument_bytes(self) -> int:
        """What is in memory before and after a step."""
        return self.weights + self.optimizer

    @property
    def temp_bytes(self) -> int:
        """What is in memory only during a step."""
        return self.compute_copy + self.gradients + self.activations

    @property
    def peak_bytes(self) -> int:
        """Largest memory in use at any moment."""
        return self.argument_bytes + self.temp_bytes


def estimate_memory(
    train: TrainSpec, architecture: Architecture, mesh: MeshSizes, platform: Platform
) -> MemoryEstimate:
    """Estimate the memory of one device in a training step.

    Args:
        train: method, optimizer, number format, remat and sizes.
        architecture: family and shape of the model.
        mesh: devices that share the step.
        platform: kind of the devices, which decides whether attention scores are in memory.
    """
    width = 2 if train.dtype == "bfloat16" else _MASTER
    rows = train.batch_size // (train.accumulation_steps * mesh.row_shares)
    tokens = rows * train.max_length_tokens
    if architecture.embed_dim % mesh.fsdp:  # every device along `fsdp` has a copy of the weights
        mesh = MeshSizes(mesh.data * mesh.fsdp, 1, mesh.tp)
    per_token = width * _numbers_per_token(train, architecture)
    if _holds_scores(train, architecture, platform):
        layers = architecture.num_layers if train.remat == "none" else 1
        per_token += layers * _FLOAT32 * architecture.num_heads * train.max_length_tokens
    activations = tokens * per_token // mesh.tp
    if isinstance(train.method, LoraMethod):
        return _with_adapters(train.method, train, architecture, mesh, width, activations)
    lanes = _LANES if platform == "tpu" else 1
    return _full(train, architecture, mesh, width, activations, lanes)


def _full(
    train: TrainSpec,
    architecture: Architecture,
    mesh: MeshSizes,
    width: int,
    activations: int,
    lanes: int,
) -> MemoryEstimate:
    """Estimate a step that trains all weights.

    Args:
        train: the train spec.
        architecture: family and shape of the model.
        mesh: devices that share the step.
        width: bytes of a number of the computation.
        activations: bytes of the outputs of layers.
        lanes: multiple that the last axis of an array is padded to.
    """
    a, shares = architecture, mesh.weight_shares
    total, table = parameter_count(a), embedding_size(a)
    own = a.embed_dim // mesh.fsdp
    padding = -own % lanes / own  # of arrays whose last axis is the width of the model
    padded = int(padding * (table + a.num_layers * a.hidden_dim * a.embed_dim))
    sums = _MASTER * (total + padded) // shares
    if mesh.devices == 1:
        gradients = width * total
    else:
        # The gradient of the head waits for that of the lookup.
        head = width * int((1 + padding) * table) // shares
        tile = (width + _FLOAT32) * _tile_size(a)
        gradients = head + max(tile, sums + width * block_size(a))
    if train.accumulation_steps > 1:
        gradients += sums + width * total // shares  # of all parts, and of one
    return MemoryEstimate(
        weights=_MASTER * total // shares,
        optimizer=_optimizer_bytes(train, a, total) // shares,
        compute_copy=width * (total + padded) // shares if width < _MASTER else 0,
        gradients=gradients,
        activations=activations,
    )


def _with_adapters(
    method: LoraMethod,
    train: TrainSpec,
    architecture: Architecture,
    mesh: MeshSizes,
    width: int,
    activations: int,
) -> MemoryEstimate:
    """Estimate a step that trains adapters, which are float32 and on every device."""
    total, adapters = parameter_count(architecture), adapter_count(architecture, method)
    copy, frozen = 0, width * total
    if isinstance(method, QloraMethod):
        quantized = adapted_size(architecture, method)
        frozen -= width * quantized - quantized * _BITS[method.quantization] // 8
        # Expanded weights wait for the backward pass.
        block = block_size(architecture)
        copy += width * (quantized + 2 * block) // mesh.weight_shares
        copy += width * block if mesh.weight_shares > 1 else 0
    if mesh.weight_shares > 1:
        copy += width * _tile_size(architecture)
    return MemoryEstimate(
        weights=frozen // mesh.weight_shares + _MASTER * adapters,
        optimizer=_optimizer_bytes(train, architecture, adapters),
        compute_copy=copy,
        gradients=_MASTER * adapters,
        activations=activations,
    )


def _optimizer_bytes(train: TrainSpec, architecture: Architecture, trained: int) -> int:
    """Return the bytes of the optimizer's state for this number of trained weights."""
    match train.optimizer:
        case AdafactorSpec():
            return 0  # one number per row and per column
        case MuonSpec() if not isinstance(train.method, LoraMethod):
            matrices = block_matrices(architecture)
            names = ("gate_proj", "up_proj", "down_proj")
            hidden = architecture.num_layers * sum(matrices[name].size for name in names)
            return 2 * _MASTER * (trained - hidden) + _MASTER * hidden
        case _:
            return 2 * _MASTER * trained


def _holds_scores(train: TrainSpec, architecture: Architecture, platform: Platform) -> bool:
    """Return whether attention keeps its scores in memory; see `models/attention/attend.py`."""
    has_kernel = train.dtype == "bfloat16" and architecture.attention_softcap is None
    return platform == "cpu" or (platform == "gpu" and not has_kernel)


def _tile_size(architecture: Architecture) -> int:
    """Return the number of weights of one tile of the LM head."""
    return min(_TILE_PIECES, architecture.vocab_size) * architecture.embed_dim


def _numbers_per_token(train: TrainSpec, architecture: Architecture) -> int:
    """Return the numbers per token that are in use when the backward pass begins."""
    a = architecture
    projections = (a.num_heads + a.num_kv_heads) * a.head_dim
    layer = 3 * a.hidden_dim + 4 * a.embed_dim + 2 * projections
    match train.remat:
        case "none":
            return a.num_layers * layer + a.hidden_dim
        case "block":
            return a.num_layers * 5 * a.embed_dim + layer
        case "decoder":
            return a.num_layers * a.embed_dim + layer
