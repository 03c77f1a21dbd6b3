from __future__ import annotations

import numpy as np
import pytest

from tests.training.models.checkpoints import tiny_config
from tests.training.params import flat_params
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import POST_NORM_SCALE, build_random_model

SPEC = RandomModelSpec(
    num_layers=1, embed_dim=16, hidden_dim=32, num_heads=2, num_kv_heads=1, head_dim=8
)
ARCHITECTURE = random_architecture(SPEC, 64)


def test_weights_are_a_function_of_the_seed() -> None:
    first = flat_params(build_random_model(ARCHITECTURE, 3))
    again = flat_params(build_random_model(ARCHITECTURE, 3))
    other = flat_params(build_random_model(ARCHITECTURE, 4))
    assert list(first) == sorted(first)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    embedding = "embedder.input_embedding"
    assert not np.array_equal(first[embedding], other[embedding])


def test_no_weight_matrix_starts_at_zero() -> None:
    """Tunix initializes feed-forward kernels to zero, a saddle point that training never leaves."""
    for name, array in flat_params(build_random_model(ARCHITECTURE, 0)).items():
        assert array.dtype == np.float32, name
        assert np.isfinite(array).all(), name
        if array.ndim > 1:
            assert array.std() > 0.05, name


def test_scales_follow_the_fan_in() -> None:
    spec = RandomModelSpec(num_layers=1, embed_dim=256, hidden_dim=512, num_heads=4, num_kv_heads=4)
    params = flat_params(build_random_model(random_architecture(spec, 512), 0))
    assert params["embedder.input_embedding"].std() == pytest.approx(256**-0.5, rel=0.02)
    assert params["layers.0.mlp.down_proj.kernel"].std() == pytest.approx(512**-0.5, rel=0.02)
    assert params["layers.0.attn.qkv_einsum.w"].std() == pytest.approx(256**-0.5, rel=0.02)
    assert (params["layers.0.post_ffw_norm.scale"] == np.float32(POST_NORM_SCALE)).all()
    assert (params["final_norm.scale"] == 0).all()


@pytest.mark.parametrize("model_type", ["gemma2", "llama", "qwen2", "qwen3"])
def test_every_family_can_start_from_random_weights(model_type: str) -> None:
    """Only Gemma 3 is offered to users; the others are for tests and benchmarks."""
    architecture = parse_config(tiny_config(model_type), "config.json")
    for name, array in flat_params(build_random_model(architecture, 0)).items():
        if array.ndim > 1:
            assert 0.05 < array.std() < 0.2, name
        else:
            is_factor = name.endswith(".w")  # Gemma adds 1 to its scales, and biases start at 0
            assert (array == (1.0 if is_factor else 0.0)).all(), name
