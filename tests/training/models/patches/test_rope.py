"""RoPE of config.json: Tunix's fault is still there, and the patch makes up for it.

That patched models compute the right logits is tested in families/test_parity.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.models.gemma import model as gemma2
from tunix.models.gemma3 import model as gemma3
from tunix.models.llama3 import model as llama3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from tuneloop.specs.training.architecture import Rope
from tuneloop.training.models.patches.rope import (
    inverse_frequencies,
    rotate,
    set_attention_rope,
    set_model_rope,
)

SHAPE = {
    "num_layers": 1,
    "vocab_size": 32,
    "embed_dim": 16,
    "hidden_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "num_kv_heads": 1,
    "norm_eps": 1e-6,
}
FAMILIES: list[Any] = [llama3, qwen3]


def attention_of(module: Any, theta: float) -> Any:
    config = module.ModelConfig(**SHAPE, rope_theta=theta)
    return module.Attention(config, rngs=nnx.Rngs(0))


def output_of(attention: Any) -> np.ndarray:
    inputs = 40 * np.random.default_rng(0).standard_normal((1, 12, 16), dtype=np.float32)
    mask = jnp.tril(jnp.ones((1, 12, 12), bool))
    return np.asarray(attention(inputs, jnp.arange(12)[None], None, mask)[1])


@pytest.mark.parametrize("module", FAMILIES, ids=["llama3", "qwen3"])
def test_tunix_still_ignores_rope_theta(module: Any) -> None:
    """If this fails, Tunix reads `rope_theta`: drop the patch for plain RoPE."""
    first, second = (output_of(attention_of(module, theta)) for theta in (1e4, 5e6))
    assert np.array_equal(first, second)


def test_tunix_still_has_no_scaling_of_rope_and_no_base_in_gemma2() -> None:
    """If this fails, Tunix has a setting for it: use it in place of the patch."""
    for module in (gemma2, gemma3, llama3, qwen2, qwen3):
        names = {each.name for each in dataclasses.fields(module.ModelConfig)}
        assert not {name for name in names if "freq_factor" in name or "rope_scaling" in name}
    assert not {each.name for each in dataclasses.fields(gemma2.ModelConfig) if "rope" in each.name}


@pytest.mark.parametrize("module", FAMILIES, ids=["llama3", "qwen3"])
def test_the_patch_changes_one_model_and_not_the_class(module: Any) -> None:
    patched, untouched = (attention_of(module, 1e4) for _ in range(2))
    set_attention_rope(patched, Rope(theta=1e4), 8)
    assert type(untouched) is module.Attention
    assert isinstance(patched, module.Attention)
    before = output_of(untouched)
    assert np.abs(before - output_of(patched)).max() > 1e-3
    set_attention_rope(untouched, Rope(theta=1e6), 8)  # Tunix's own base
    assert np.abs(output_of(untouched) - before).max() < 1e-5


def test_equal_settings_share_a_class_so_that_compiled_code_is_shared() -> None:
    config = qwen2.ModelConfig(**SHAPE, rope_theta=1e4)
    models = [nnx.eval_shape(lambda: qwen2.Qwen2(config, rngs=nnx.Rngs(0))) for _ in range(3)]
    for model, theta in zip(models, (1e4, 1e4, 2e4), strict=True):
        set_model_rope(model, Rope(theta=theta), 8)
    assert type(models[0]) is type(models[1])
    assert type(models[0]) is not type(models[2])
    assert type(models[0]).__name__ == "Qwen2"


def test_frequencies_of_llama31_are_scaled_by_their_wavelength() -> None:
    plain = inverse_frequencies(Rope(theta=5e5), 128)
    settings = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = Rope(theta=5e5, kind="llama3", original_max_positions=8192, **settings)
    ratio = inverse_frequencies(rope, 128) / plain
    wavelength = 2 * np.pi / plain
    assert plain.dtype == np.float32
    assert np.array_equal(ratio[wavelength < 2048], np.ones((wavelength < 2048).sum()))
    assert ratio[wavelength > 8192] == pytest.approx(1 / 8)
    between = ratio[(wavelength >= 2048) & (wavelength <= 8192)]
    assert between.size > 3
    assert (np.diff(between) < 0).all()
    linear = inverse_frequencies(Rope(theta=5e5, kind="linear", factor=4.0), 128)
    assert linear == pytest.approx(plain / 4)


def test_rotation_depends_on_the_distance_alone() -> None:
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((1, 1, 1, 8), dtype=np.float32) for _ in range(2))
    turn = functools.partial(rotate, frequencies=inverse_frequencies(Rope(theta=100.0), 8))
    near, far = (
        jnp.vdot(turn(query, jnp.array([[at + 3]])), turn(key, jnp.array([[at]]))) for at in (0, 40)
    )
    assert float(near) == pytest.approx(float(far), abs=1e-4)
    assert np.array_equal(turn(query, jnp.array([[0]])), query)
    assert turn(jnp.asarray(query, jnp.bfloat16), jnp.array([[5]])).dtype == jnp.bfloat16
