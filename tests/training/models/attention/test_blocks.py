"""The blocks that call `attend` compute what Tunix's own compute with a mask."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.training.models.checkpoints import tiny_config
from tuneloop.training.models.attention.scores import visible
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.random_weights import build_random_model

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 3, "query_pre_attn_scalar": 24},
    "gemma3_text": {"sliding_window": 3},
    "llama": {"rope_theta": 500_000.0},
    "qwen2": {},
    "qwen3": {},
}
SEGMENTS = np.array([[1] * 7 + [0] * 3, [1] * 4 + [2] * 6], np.int32)


@pytest.mark.parametrize("family", CONFIGS)
def test_segment_ids_and_a_mask_give_the_same_logits(family: str) -> None:
    model = build_random_model(
        parse_config(tiny_config(family, **CONFIGS[family]), "config.json"), 0
    )
    tokens = jax.random.randint(jax.random.key(0), SEGMENTS.shape, 1, 15)
    positions = jnp.broadcast_to(jnp.arange(10), SEGMENTS.shape)
    segments = jnp.asarray(SEGMENTS)
    by_segments = model(tokens, positions, None, segments)[0]
    by_mask = model(tokens, positions, None, visible(segments, None))[0]
    np.testing.assert_allclose(by_segments, by_mask, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(by_mask).max()) > 0.01


def test_the_class_of_two_models_of_one_shape_is_the_same() -> None:
    # Otherwise a compiled function would not be shared between them.
    models = [
        build_random_model(parse_config(tiny_config("llama"), "config.json"), seed)
        for seed in (0, 1)
    ]
    graphs = [nnx.split(model)[0] for model in models]
    assert graphs[0] == graphs[1]
