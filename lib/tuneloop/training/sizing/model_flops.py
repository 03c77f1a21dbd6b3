"""Floating point operations that a model needs for a batch, by the definition of MFU.

MFU (model FLOPs utilization) is defined in appendix B of the PaLM paper: operations that the model
needs per second, divided by the peak rate of the devices. What a program computes in addition, such
as activations computed again or padding, does not count. `work.py` counts that too.
"""

from __future__ import annotations

import numpy as np

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod, MethodSpec
from tuneloop.training.sizing.parameters import adapter_count, block_size, embedding_size

_PASS = 2
"""Operations per weight and token of one pass: one multiplication, one addition."""
_TRAINED = 3
"""Passes over a trained weight: forward, and backward for its inputs and for the weight."""
_FROZEN = 2
"""Passes over a frozen weight, which needs no gradient of its own."""


def model_flops(
    architecture: Architecture, method: MethodSpec, lengths: np.ndarray, targets: int
) -> float:
    """Count the operations that one optimizer update needs.

    Matrix products are counted, all others are not. Attention counts the whole square of an
    example, as PaLM's formula `6 N + 12 L H Q T` does, and within the window in layers with a
    sliding window. The LM head counts only positions that the loss covers.

    Args:
        architecture: family and shape of the model.
        method: what is trained.
        lengths: integers (examples,), the tokens of each example of the batch.
        targets: positions that the loss covers.
    """
    a, tokens = architecture, int(lengths.sum())
    has_adapters = isinstance(method, LoraMethod)
    passes = _FROZEN if has_adapters else _TRAINED
    weights = _PASS * passes * tokens * a.num_layers * block_size(a)
    head = _PASS * passes * targets * embedding_size(a)
    adapters = 0
    if isinstance(method, LoraMethod):
        adapters = _PASS * _TRAINED * tokens * adapter_count(a, method)
    # Scores and weighted sums: both factors are activations, so both have gradients.
    pairs = sum(_pairs(a, layer, lengths) for layer in range(a.num_layers))
    attention = 2 * _PASS * _TRAINED * pairs * a.num_heads * a.head_dim
    return float(weights + head + adapters + attention)


def _pairs(architecture: Architecture, layer: int, lengths: np.ndarray) -> int:
    """Count the pairs of query and key in one layer."""
    kinds, window = architecture.layer_types, architecture.sliding_window_tokens
    keys = lengths
    if kinds and kinds[layer] == "sliding" and window is not None:
        keys = np.minimum(lengths, window)
    return int((lengths.astype(np.int64) * keys).sum())
