from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import TypeAdapter

from tuneloop.specs.training.optimizer import AdamWSpec, OptimizerSpec
from tuneloop.training.step import optimizers

SPECS: TypeAdapter[OptimizerSpec] = TypeAdapter(OptimizerSpec)


def spec(**keys: Any) -> OptimizerSpec:
    return SPECS.validate_python(keys)


def values(steps: int, *at: int, **keys: Any) -> list[float]:
    schedule = optimizers.learning_rate_schedule(spec(learning_rate=1.0, **keys), steps)
    return [float(schedule(step)) for step in at]


def test_schedule_warms_up_and_decays() -> None:
    assert values(50, 0, 5, 50) == pytest.approx([0, 1, 0.05])
    assert values(1, 0) == [0]  # A schedule of one step is possible.


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"schedule": "cosine", "min_lr_ratio": 0.2}, [0, 0.5, 1, 0.6, 0.2]),
        ({"schedule": "linear", "min_lr_ratio": 0.2}, [0, 0.5, 1, 0.6, 0.2]),
        ({"schedule": "constant", "min_lr_ratio": 0.2}, [0, 0.5, 1, 1, 1]),
        ({"schedule": "constant", "warmup_steps": 0}, [1, 1, 1, 1, 1]),
        ({"schedule": "linear", "warmup_steps": 0, "min_lr_ratio": 0}, [1, 0.95, 0.9, 0.5, 0]),
    ],
)
def test_each_schedule_at_the_start_the_peak_the_middle_and_the_end(
    keys: dict[str, Any], expected: list[float]
) -> None:
    steps = 20
    middle = 11 if keys.get("warmup_steps") is None else 10
    assert values(steps, 0, 1, 2, middle, steps, **keys) == pytest.approx(expected)


def test_cosine_is_half_way_down_in_the_middle_and_flat_at_both_ends() -> None:
    start, middle, end = values(100, 1, 50, 99, warmup_steps=0, min_lr_ratio=0)
    assert (start, middle, end) == pytest.approx((0.9997, 0.5, 0.00025), abs=1e-4)


def test_a_constant_schedule_does_not_depend_on_the_number_of_steps() -> None:
    keys = {"schedule": "constant", "warmup_steps": 3}
    assert values(50, *range(50), **keys) == values(100, *range(50), **keys)


PARAMS = {
    "embedder": {"input_embedding": jnp.ones((8, 4))},
    "layers": {
        "kernel": jnp.arange(24.0).reshape(6, 4) / 24,
        "q_einsum": jnp.ones((2, 4, 3)),
        "scale": jnp.ones(4),
    },
}


def update(kind: str, **keys: Any) -> dict[str, Any]:
    """Return the first update, at learning rate 1 and without clipping."""
    made = spec(
        kind=kind, learning_rate=1.0, warmup_steps=0, schedule="constant", max_grad_norm=1e9, **keys
    )
    optimizer = optimizers.build_optimizer(made, 10)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    return updates


def test_muon_makes_hidden_matrices_orthogonal_and_leaves_the_rest_to_adamw() -> None:
    muon, adamw = update("muon"), update("adamw")
    matrix = np.array(muon["layers"]["kernel"])
    sizes = np.linalg.svd(matrix, compute_uv=False)
    assert sizes.max() / sizes.min() < 2  # a random gradient of this shape has about 5
    # Updates are about as large as AdamW's, which are 1 in the first step, times 0.2.
    assert np.sqrt((matrix**2).mean()) == pytest.approx(0.2, rel=0.3)
    for path in (("embedder", "input_embedding"), ("layers", "q_einsum"), ("layers", "scale")):
        ours, theirs = (tree[path[0]][path[1]] for tree in (muon, adamw))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_weight_decay_is_multiplied_by_the_learning_rate(kind: str) -> None:
    plain, decayed = update(kind), update(kind, weight_decay=0.1)
    for param, one, other in zip(*map(jax.tree.leaves, (PARAMS, plain, decayed)), strict=True):
        np.testing.assert_allclose(other - one, -0.1 * param, atol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_each_optimizer_learns(kind: str) -> None:
    optimizer = optimizers.build_optimizer(
        spec(kind=kind, learning_rate=0.05, schedule="linear"), steps=60
    )

    def distance(params: Any) -> jax.Array:
        return sum((leaf**2).mean() for leaf in jax.tree.leaves(params))

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(distance)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(60):
        params, state = step(params, state)
    assert distance(params) < 0.1 * distance(PARAMS)


def test_adafactor_keeps_less_than_adamw() -> None:
    params = {"kernel": jnp.ones((256, 256))}

    def size(kind: str) -> int:
        state = optimizers.build_optimizer(spec(kind=kind), 10).init(params)
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    assert size("adafactor") < size("adamw") / 100


def test_an_optimizer_without_a_kind_is_adamw() -> None:
    assert spec(learning_rate=0.1) == AdamWSpec(learning_rate=0.1)
