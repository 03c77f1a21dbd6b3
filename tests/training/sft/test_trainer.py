"""Number formats inside the trainer's steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from tests.training.models.checkpoints import tiny_config
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.sft.trainer import SftTrainer
from tuneloop.training.step.update import StepOptions, compute_copy

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
            copy = compute_copy(StepOptions(jnp.dtype("bfloat16"), "none", 0), graph, state)
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


def test_neither_step_changes_the_format_of_the_weights() -> None:
    architecture = parse_config(tiny_config("qwen3"), "config.json")
    method = LoraMethod(kind="lora", rank=2)
    model = apply_lora(build_random_model(architecture, 0), architecture, method, 0)
    frozen = {
        path: np.array(variable.get_value())
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
        if not isinstance(variable, nnx.LoRAParam)
    }
    spec = TrainSpec(steps=2, batch_size=2, max_length_tokens=8, dtype="bfloat16", method=method)
    trainer = SftTrainer(model, spec, steps=2, seed=0)
    update, measure = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    batch = {
        "tokens": np.ones((1, 2, 8), np.int32),
        "segment_ids": np.ones((1, 2, 8), np.int32),
        "loss_mask": np.ones((1, 2, 8), bool),
    }
    measure({name: array[0] for name, array in batch.items()})
    update(batch)
    assert dtypes(model, nnx.Param) == dtypes(model, nnx.LoRAParam) == {"float32"}
    assert {
        str(module.dtype) for _, module in nnx.iter_modules(model) if hasattr(module, "dtype")
    } == {"float32"}
    after = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, value in frozen.items():
        np.testing.assert_array_equal(after[path].get_value(), value)
