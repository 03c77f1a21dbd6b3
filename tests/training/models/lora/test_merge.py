"""Merging adapters: the merged model computes what the adapted one computed."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.training.models.lora.models import ARCHITECTURE, INT8, LORA, adapted, build, logits
from tests.training.params import flat_params
from tuneloop.errors import DataError
from tuneloop.specs.training.method import FullMethod, LoraMethod
from tuneloop.training.models.lora.merge import (
    adapters_of,
    merge_adapters,
    merge_trained,
    remove_adapters,
)


def test_the_merged_model_equals_the_adapted_one() -> None:
    base = build()
    model = adapted(base)
    expected = np.array(logits(model))
    assert np.abs(expected - logits(base)).max() > 0.1
    merge_adapters(base, adapters_of(model, LORA))
    assert np.abs(logits(base) - expected).max() < 2e-5
    assert np.array_equal(logits(model), expected)


def test_a_model_without_its_adapters_is_the_base_again() -> None:
    base = build()
    model = adapted(base)
    remove_adapters(model)
    assert type(model) is type(base)
    attributes = [
        {path: sorted(vars(module)) for path, module in nnx.iter_modules(each)}
        for each in (model, base)
    ]
    assert attributes[0] == attributes[1]
    assert np.array_equal(logits(model), logits(base))


def test_heads_that_share_one_layer_merge_too() -> None:
    shared = ARCHITECTURE.model_copy(update={"num_kv_heads": 4})
    base = build(shared)
    model = adapted(base, architecture=shared)
    expected = np.array(logits(model))
    merge_adapters(base, adapters_of(model, LORA))
    assert np.abs(logits(base) - expected).max() < 2e-5


def test_a_bfloat16_weight_is_rounded_once() -> None:
    base = build(dtype=jnp.bfloat16)
    before = flat_params(base)
    adapters = adapters_of(adapted(base), LORA)
    merge_adapters(base, adapters)
    after = flat_params(base)
    name = "layers.0.mlp.up_proj.kernel"
    adapter = adapters[name]
    exact = before[name].astype(np.float32) + adapter.scale * (adapter.a @ adapter.b)
    assert after[name].dtype == before[name].dtype
    assert (after[name] == exact.astype(before[name].dtype)).mean() > 0.999
    untouched = set(before) - set(adapters)
    assert "embedder.input_embedding" in untouched
    assert all(np.array_equal(before[name], after[name]) for name in untouched)


def test_adapters_of_quantized_weights_merge_into_the_original_ones() -> None:
    base = build()
    adapters = adapters_of(adapted(base, INT8), INT8)
    assert adapters.keys() == adapters_of(adapted(base), LORA).keys()
    expected = np.array(logits(adapted(base)))
    merge_adapters(base, adapters)
    assert np.abs(logits(base) - expected).max() < 2e-5


@pytest.mark.parametrize("method", [LORA, INT8], ids=["lora", "qlora"])
def test_a_trained_model_becomes_the_one_that_is_handed_on(method: LoraMethod) -> None:
    loads: list[Any] = []

    def load_base() -> Any:
        loads.append(build())
        return loads[-1]

    expected = np.array(logits(adapted(build())))
    merged, adapters = merge_trained(adapted(build(), method), method, load_base)
    assert len(loads) == (1 if method is INT8 else 0)
    assert len(adapters) == 6 * ARCHITECTURE.num_layers
    assert np.abs(logits(merged) - expected).max() < 2e-5


def test_full_training_has_nothing_to_merge() -> None:
    model = build()
    assert merge_trained(model, FullMethod(), build) == (model, {})


def test_another_model_is_refused() -> None:
    adapters = adapters_of(adapted(build()), LORA)
    wider = ARCHITECTURE.model_copy(update={"hidden_dim": 128})
    with pytest.raises(DataError, match=r"down_proj\.kernel: found shape \(128, 32\) in the mode"):
        merge_adapters(build(wider), adapters)
    shallower = ARCHITECTURE.model_copy(update={"num_layers": 1, "layer_types": ("sliding",)})
    with pytest.raises(DataError, match=r"layers\.1\..*: found no such weight in the model"):
        merge_adapters(build(shallower), adapters)
