"""Adapters on a tiny Gemma 3: what they change, and what they must not."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.training.models.lora.models import (
    ARCHITECTURE,
    INT8,
    LORA,
    NF4,
    adapted,
    build,
    logits,
    raw_logits,
)
from tuneloop.errors import SpecError
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models import registry
from tuneloop.training.models.lora.apply import apply_lora, lora_items
from tuneloop.training.models.lora.merge import adapters_of, merge_adapters
from tuneloop.training.models.lora.provider import adapter_dropout


@pytest.fixture(scope="module")
def base() -> Any:
    return build()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_new_adapter_changes_no_bit_of_the_logits(dtype: Any) -> None:
    base = build(dtype=dtype)
    model = apply_lora(base, ARCHITECTURE, LORA, 0)
    assert logits(model).dtype == logits(base).dtype == dtype
    assert np.array_equal(logits(model), logits(base))


def test_adapters_and_their_gradients_are_float32_beside_bfloat16_weights() -> None:
    model = adapted(build(dtype=jnp.bfloat16))
    assert logits(model).dtype == jnp.bfloat16

    def loss(model: Any) -> Any:
        return (raw_logits(model).astype(jnp.float32) ** 2).mean()

    adapters = nnx.DiffState(0, nnx.LoRAParam)
    gradients = nnx.jit(nnx.grad(loss, argnums=adapters))(model)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(gradients)} == {"float32"}
    assert {str(variable.dtype) for _, variable in lora_items(model)} == {"float32"}


def test_the_base_is_shared_and_not_copied(base: Any) -> None:
    model = apply_lora(base, ARCHITECTURE, LORA, 0)
    kernel = base.layers[0].mlp.up_proj.kernel.get_value()
    assert model.layers[0].mlp.up_proj.kernel.get_value() is kernel
    assert not list(lora_items(base))


def test_adapters_are_on_every_device_of_the_models_mesh() -> None:
    mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    placed = NamedSharding(mesh, P("fsdp"))
    base = build()
    for _, variable in nnx.to_flat_state(nnx.state(base)):
        variable.set_value(jax.device_put(variable.get_value(), placed))
    model = adapted(base)
    for _, variable in lora_items(apply_lora(base, ARCHITECTURE, LORA, 0)):
        value = variable.get_value()
        assert value.sharding == NamedSharding(mesh, P())
        assert not {"out_sharding", "sharding"} & set(variable.get_metadata())
    merge_adapters(base, adapters_of(model, LORA))
    assert base.layers[0].mlp.up_proj.kernel.get_value().sharding == placed


def test_every_linear_layer_of_a_block_has_an_adapter(base: Any) -> None:
    model = apply_lora(base, ARCHITECTURE, LORA, 0)
    assert len(lora_items(model)) == 2 * 6 * ARCHITECTURE.num_layers
    shared_heads = ARCHITECTURE.model_copy(update={"num_kv_heads": 4})
    model = apply_lora(build(shared_heads), shared_heads, LORA, 0)
    assert len(lora_items(model)) == 2 * 5 * ARCHITECTURE.num_layers


def test_listed_targets_alone_have_an_adapter(base: Any) -> None:
    method = LoraMethod(kind="lora", targets=("q_proj", "up_proj"))
    model = apply_lora(base, ARCHITECTURE, method, 0)
    assert {path[-2] for path, _ in lora_items(model)} == {"q_einsum", "up_proj"}


def test_a_layer_that_is_not_found_is_an_error(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tunix has renamed a module: a regular expression would match less, in silence."""
    family = registry.FAMILIES["gemma3"]
    renamed = dataclasses.replace(family, lora_targets=("o_proj", "up_proj"))
    monkeypatch.setitem(registry.FAMILIES, "gemma3", renamed)
    with pytest.raises(SpecError, match=r"found 2 layers for adapters .*, expected 4 \(o_proj, up"):
        apply_lora(base, ARCHITECTURE, LORA, 0)


def test_a_depends_on_the_seed_alone(base: Any) -> None:
    def drawn(seed: int) -> list[np.ndarray]:
        model = apply_lora(base, ARCHITECTURE, LORA, seed)
        return [np.array(variable.get_value()) for _, variable in lora_items(model)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert sum(np.array_equal(x, y) for x, y in zip(first, other, strict=True)) == len(first) / 2
    assert all(np.abs(array).max() <= (6 / 16) ** 0.5 for array in first)


def test_dropout_acts_within_its_context_and_repeats_with_its_key(base: Any) -> None:
    model = adapted(base, LORA.model_copy(update={"dropout": 0.5}))

    @nnx.jit  # type: ignore[untyped-decorator]
    def dropped(model: Any, step: Any) -> Any:
        with adapter_dropout(model, jax.random.fold_in(jax.random.key(0), step)):
            return raw_logits(model)

    without = logits(model)
    first, second = dropped(model, 1), dropped(model, 2)
    assert not np.array_equal(first, without)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, dropped(model, 1))
    assert np.array_equal(without, logits(model))
    assert np.array_equal(without, logits(adapted(base)))


def test_dropout_is_without_effect_on_a_model_without_it(base: Any) -> None:
    for model in (base, adapted(base)):
        with adapter_dropout(model, jax.random.key(0)):
            inside = logits(model)
        assert np.array_equal(inside, logits(model))


@pytest.mark.parametrize(("method", "largest"), [(INT8, 0.15), (NF4, 1.5)])
def test_quantized_weights_are_near_and_those_of_the_targets_alone(
    method: Any, largest: float, base: Any
) -> None:
    model = apply_lora(base, ARCHITECTURE, method, 0)
    embedding = base.embedder.input_embedding.get_value()
    assert model.embedder.input_embedding.get_value() is embedding
    difference = np.abs(logits(model) - logits(base)).max()
    assert 1e-3 < difference < largest
    kernel = model.layers[1].mlp.down_proj.kernel
    assert kernel.array.qvalue.dtype == {"int8": jnp.int8, "nf4": jnp.uint4}[method.quantization]
    assert base.layers[1].mlp.down_proj.kernel.dtype == jnp.float32
