"""Operations of a model: a sum by hand, and what XLA counts in a model's forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training.compile.cells import architecture
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import FullMethod, LoraMethod
from tuneloop.training.sizing.model_flops import model_flops
from tuneloop.training.sizing.parameters import adapter_count, block_size, embedding_size


def flops(given: Architecture, method: Any, lengths: list[int], targets: int) -> float:
    return model_flops(given, method, np.array(lengths), targets)


def test_all_weights_are_palms_formula() -> None:
    """6 N + 12 L H Q T per token, if every position has a target."""
    given, length = architecture("llama3"), 32
    size = given.num_layers * block_size(given) + embedding_size(given)
    attention = 12 * given.num_layers * given.num_heads * given.head_dim * length
    assert flops(given, FullMethod(), [length], length) == length * (6 * size + attention)


def test_positions_without_target_do_not_need_the_head() -> None:
    given = architecture("llama3")
    saved = flops(given, FullMethod(), [32], 32) - flops(given, FullMethod(), [32], 8)
    assert saved == 24 * 6 * embedding_size(given)


def test_frozen_weights_need_no_gradient_and_adapters_do() -> None:
    given, method = architecture("llama3"), LoraMethod(kind="lora", rank=4)
    size = given.num_layers * block_size(given) + embedding_size(given)
    saved = flops(given, FullMethod(), [32], 32) - flops(given, method, [32], 32)
    assert saved == 32 * (2 * size - 6 * adapter_count(given, method))


def test_examples_attend_to_themselves_only() -> None:
    given = architecture("llama3")
    one = flops(given, FullMethod(), [64], 0)
    two = flops(given, FullMethod(), [32, 32], 0)
    assert one - two == 12 * given.num_layers * given.num_heads * given.head_dim * 64 * 32


@pytest.mark.parametrize("window", [8, 64])
def test_sliding_layers_see_their_window(window: int) -> None:
    kinds = {"sliding_window_tokens": window, "layer_types": ("sliding", "full")}
    given = architecture("gemma3").model_copy(update={"num_layers": 2, **kinds})
    everywhere = given.model_copy(update={"layer_types": ()})
    saved = flops(everywhere, FullMethod(), [32], 0) - flops(given, FullMethod(), [32], 0)
    assert saved == 12 * given.num_heads * given.head_dim * 32 * (32 - min(32, window))
