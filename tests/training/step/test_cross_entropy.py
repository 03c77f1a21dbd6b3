"""The loss in tiles equals optax's over whole logits, in value and gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.builders import REPOSITORY, xla_flags
from tuneloop.training.models.head import Head
from tuneloop.training.step import cross_entropy, head_weight
from tuneloop.training.step.cross_entropy import summed_cross_entropy

ROWS, LENGTH, WIDTH, PIECES = 4, 11, 8, 50


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three columns and 20 pieces: neither divides its axis."""
    monkeypatch.setattr(cross_entropy, "TILE_TOKENS", 12)
    monkeypatch.setattr(cross_entropy, "TILE_PIECES", 20)
    monkeypatch.setattr(head_weight, "LANES", 4)


def arrays(is_embedding: bool, share: float = 0.4) -> tuple[jax.Array, ...]:
    draw = np.random.default_rng(0)
    shape = (PIECES, WIDTH) if is_embedding else (WIDTH, PIECES)
    return (
        jnp.array(draw.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32),
        jnp.array(draw.normal(size=shape), jnp.float32),
        jnp.array(draw.integers(0, PIECES, (ROWS, LENGTH))),
        jnp.array(draw.random((ROWS, LENGTH)) < share),
    )


def losses(is_embedding: bool, softcap: float | None) -> tuple[Callable[..., Any], ...]:
    """The loss in tiles, and the plain one."""

    def tiled(hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
        head = Head(weight, is_embedding, softcap)
        return summed_cross_entropy(hidden, head, targets, mask)

    def plain(hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
        logits = hidden @ (weight.T if is_embedding else weight)
        if softcap is not None:
            logits = jnp.tanh(logits / softcap) * softcap
        found = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (found * mask).sum()

    return tiled, plain


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("is_embedding", [True, False])
@pytest.mark.parametrize("share", [0, 0.1, 0.4, 1])
def test_value_and_gradients_are_those_of_whole_logits(
    share: float, is_embedding: bool, softcap: float | None
) -> None:
    given, (tiled, plain) = arrays(is_embedding, share), losses(is_embedding, softcap)
    found = jax.jit(jax.value_and_grad(tiled, (0, 1)))(*given)
    expected = jax.value_and_grad(plain, (0, 1))(*given)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for mine, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-6)
    np.testing.assert_allclose(jax.jit(tiled)(*given), found[0], rtol=1e-6)


def test_a_frozen_weight_gets_no_gradient() -> None:
    given, (tiled, plain) = arrays(True), losses(True, None)
    compiled = jax.jit(jax.grad(tiled)).lower(*given)
    np.testing.assert_allclose(compiled.compile()(*given), jax.grad(plain)(*given), atol=2e-6)
    with_weight = jax.jit(jax.grad(tiled, (0, 1))).lower(*given)

    def products(lowered: Any) -> int:
        return int(lowered.as_text().count("stablehlo.dot_general"))

    assert products(with_weight) == products(compiled) + 1


def test_gradients_in_bfloat16_are_rounded_once() -> None:
    hidden, weight, targets, mask = arrays(True, 1)
    low = (hidden.astype(jnp.bfloat16), weight.astype(jnp.bfloat16))
    tiled, plain = losses(True, None)
    found = jax.grad(tiled, (0, 1))(*low, targets, mask)
    exact = [each.astype(jnp.float32) for each in low]
    expected = jax.grad(plain, (0, 1))(*exact, targets, mask)
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), other, atol=0.05, rtol=0.02)


ON_FOUR_DEVICES = """
import jax, json, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.training.step.test_cross_entropy import arrays
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.training.models.head import Head
from tuneloop.training.step import cross_entropy as module, head_weight
from tuneloop.training.step.mesh import build_mesh, row_spec
module.TILE_TOKENS, module.TILE_PIECES, head_weight.LANES = 12, 20, 4
hidden, weight, targets, mask = arrays(True)
def loss(hidden, weight, targets, mask, mesh=None):
    head = Head(weight, True, None)
    return module.summed_cross_entropy(hidden, head, targets, mask, mesh=mesh)
both = jax.value_and_grad(loss, (0, 1))
found = {}
for length in (11, 10):  # tp = 2 splits the columns of the second one
    given = (hidden[:, :length], weight, targets[:, :length], mask[:, :length])
    expected = jax.jit(both)(*given)
    for data, fsdp, tp in ((1, 4, 1), (4, 1, 1), (2, 2, 1), (1, 2, 2)):
        mesh = build_mesh(MeshSpec(data=data, fsdp=fsdp, tp=tp), jax.devices())
        split, whole = NamedSharding(mesh, row_spec(0)), NamedSharding(mesh, P())
        places = (split, whole, split, split)
        placed = [jax.device_put(*each) for each in zip(given, places)]
        mine = jax.jit(lambda *a: both(*a, mesh=mesh))(*placed)
        differences = jax.tree.map(lambda a, b: float(abs(a - b).max()), mine, expected)
        found[f"{length} {data} {fsdp} {tp}"] = max(jax.tree.leaves(differences))
print(json.dumps(found))
"""


def test_every_mesh_of_four_devices_gives_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla_flags(devices=4),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 8
    assert max(differences.values()) < 2e-5
