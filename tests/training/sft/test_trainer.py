"""Number formats inside the trainer's steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from tests.training.models.checkpoints import tiny_config
from tuneloop.specs.method import LoraMethod
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.sft.trainer import with_compute_dtype

MODEL_TYPES = ["gemma2", "gemma3_text", "llama", "qwen2", "qwen3"]


def dtypes(model: Any, kind: type[Any]) -> set[str]:
    """Return the dtypes of the variables of exactly this kind."""
    state = nnx.to_flat_state(nnx.state(model, kind))
    return {str(variable.get_value().dtype) for _, variable in state if type(variable) is kind}


def products(jaxpr: Any) -> Counter[str]:
    """Count the matrix products of a computation by the dtype of their operands."""
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found[str(equation.invars[0].aval.dtype)] += 1
        for inner in jaxprs_in_params(equation.params):
            found += products(inner)
    return found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_computes_in_bfloat16_beside_float32_weights(model_type: str) -> None:
    architecture = parse_config(tiny_config(model_type), "config.json")
    model = build_random_model(architecture, 0)
    ids = jnp.ones((1, 4), jnp.int32)
    counts = []
    for each in (model, apply_lora(model, architecture, LoraMethod(kind="lora", rank=2), 0)):
        graph, state = nnx.split(each)

        def total(state: Any, graph: Any = graph) -> jax.Array:
            copy = with_compute_dtype(nnx.merge(graph, state), jnp.dtype("bfloat16"))
            assert dtypes(copy, nnx.Param) == {"bfloat16"}
            assert dtypes(copy, nnx.LoRAParam) <= {"float32"}
            logits: jax.Array = copy(ids, ids, None, jnp.ones((1, 4, 4), bool))[0]
            return logits.astype(float).sum()

        counts.append(products(jax.make_jaxpr(total)(state).jaxpr))
        gradients = jax.eval_shape(jax.grad(total), state)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
        assert dtypes(each, nnx.Param) == {"float32"}
    full, adapted = counts
    assert set(full) == {"bfloat16"}
    assert adapted["bfloat16"] >= full["bfloat16"]


def test_float32_leaves_the_weights_as_they_are() -> None:
    model = build_random_model(parse_config(tiny_config("llama"), "config.json"), 0)
    before = jax.tree.leaves(nnx.state(model))
    assert with_compute_dtype(model, jnp.dtype("float32")) is model
    after = jax.tree.leaves(nnx.state(model))
    assert all(one is other for one, other in zip(before, after, strict=True))
