"""The function that is compiled for a step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from tests.training.models.checkpoints import TWO_KINDS, tiny_config
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.compile.abstract_step import Placement, build_abstract_step
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.sharding import ROW_AXES
from tuneloop.training.step.loss import model_inputs, token_losses
from tuneloop.training.step.mesh import build_mesh
from tuneloop.training.step.update import StepOptions, compute_copy, update

CONFIGS = {name: tiny_config(name) for name in ("gemma2", "llama", "qwen2", "qwen3")}
CONFIGS["gemma3_text"] = tiny_config("gemma3_text", **TWO_KINDS)
IDS = np.random.default_rng(0).integers(3, 60, (2, 12)).astype(np.int32)
BATCH = {
    "tokens": jnp.array(IDS),
    "segment_ids": jnp.ones((2, 12), jnp.int32),
    "loss_mask": jnp.broadcast_to(jnp.arange(12) > 4, (2, 12)),
}


def remats(jaxpr: Any) -> int:
    """Count what the backward pass computes again."""
    return sum(
        (equation.primitive.name in ("remat", "remat2", "checkpoint"))
        + sum(remats(inner) for inner in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


@pytest.mark.parametrize("model_type", CONFIGS)
def test_remat_computes_the_same_again(model_type: str) -> None:
    architecture = parse_config(CONFIGS[model_type], "config.json")
    graph, state = nnx.split(build_random_model(architecture, 0))

    def gradients(remat: str) -> tuple[int, Any]:
        def loss(state: Any) -> jax.Array:
            copy = compute_copy(StepOptions(jnp.dtype("float32"), remat, 0), graph, state)
            return token_losses(copy, model_inputs(BATCH))[0]

        traced = jax.jit(jax.grad(loss)).trace(state)
        return remats(traced.jaxpr.jaxpr), traced.lower().compile()(state)

    layers = architecture.num_layers
    (none, expected), (block, by_block), (decoder, by_decoder) = map(
        gradients, ("none", "block", "decoder")
    )
    assert (none, decoder) == (0, layers)
    assert block == 2 * layers  # attention and feed-forward
    for found in (by_block, by_decoder):
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("remat", ["block", "decoder"])
@pytest.mark.parametrize(("method", "dtype"), [("lora", "float32"), ("qlora", "bfloat16")])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_adapters_are_trained_with_remat(
    model_type: str, method: str, dtype: str, remat: str
) -> None:
    """Frozen weights come from outside the gradient, where nnx.remat must not change them."""
    architecture = parse_config(CONFIGS[model_type], "config.json")
    train = TrainSpec.model_validate(
        {
            "steps": 1,
            "batch_size": 2,
            "max_length_tokens": 8,
            "dtype": dtype,
            "remat": remat,
            "method": {"kind": method, "rank": 2},
        }
    )
    placement = Placement(jax.devices()[0], None)
    step = build_abstract_step(train, architecture, placement, steps=1)
    options = StepOptions.from_spec(train, 0, None)
    function = nnx.jit(functools.partial(update, options=options))
    assert function.lower(step.model, step.optimizer, step.inputs)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_module_splits_rows_over_all_row_axes(model_type: str) -> None:
    """Tunix's marks are used on GPUs and TPUs alone; one module without `data` gathers all rows."""
    architecture = parse_config(CONFIGS[model_type], "config.json")
    graph, state = nnx.split(build_random_model(architecture, 0))
    mesh = build_mesh(MeshSpec(), jax.devices()[:1])
    options = StepOptions(jnp.dtype("float32"), "none", 0, mesh)
    marks = []
    for _, module in nnx.iter_modules(compute_copy(options, graph, state)):
        holders: list[Any] = [module, getattr(module, "config", None)]
        marks += [each.shd_config for each in holders if hasattr(each, "shd_config")]
    assert len(marks) > architecture.num_layers
    assert {each.act_btd[0] for each in marks} == {ROW_AXES}
    assert {each.act_btf[0] for each in marks} == {ROW_AXES}
