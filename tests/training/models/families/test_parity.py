"""Logits of every family against mlx-lm, an implementation that shares no code with ours.

mlx-lm reads the config.json that we write, so this tests both directions of `hf_config` as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np
import pytest
from flax import nnx
from mlx_lm.utils import load_model as load_with_mlx

from tests.training.models.checkpoints import TWO_KINDS, random_tensors, tiny_config, write_folder
from tuneloop.training.models.check import TOLERANCE
from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model

IDS = np.random.default_rng(0).integers(0, 128, (2, 48)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(48), IDS.shape)
CAUSAL = np.broadcast_to(np.tril(np.ones((48, 48), bool)), (2, 48, 48))
# Of a context of 64 tokens, so that all three parts of the scaling act on heads of width 16.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"type": "linear", "factor": 8.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("gemma3_text", {}),
    ("gemma3_text", TWO_KINDS | {"num_key_value_heads": 4}),
    ("gemma3_text", TWO_KINDS | {"num_key_value_heads": 1, "query_pre_attn_scalar": 24}),
    ("gemma3_text", TWO_KINDS | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    (
        "gemma3_text",
        TWO_KINDS | {"rope_theta": 5e5, "rope_local_base_freq": 3e4, "rms_norm_eps": 1e-3},
    ),
    ("gemma3_text", {"sliding_window_pattern": 3, "query_pre_attn_scalar": 100}),
    ("gemma2", {}),
    ("gemma2", {"num_key_value_heads": 4, "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-3}),
    ("gemma2", {"rope_theta": 1e6, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 2.0}),
    ("llama", {}),
    ("llama", {"rope_theta": 10000.0, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("llama", {"rope_scaling": LLAMA3}),
    ("llama", {"rope_scaling": LLAMA3 | {"factor": 32.0}, "tie_word_embeddings": True}),
    ("llama", {"rope_scaling": LINEAR, "head_dim": None, "num_key_value_heads": None}),
    ("qwen2", {}),
    ("qwen2", {"rope_theta": 10000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    ("qwen2", {"rope_scaling": LINEAR}),
    ("qwen3", {}),
    ("qwen3", {"rope_theta": 5e6, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32, "num_key_value_heads": 4, "rope_scaling": LINEAR}),
]


def logits_of(model: Any) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(COMPILED(model, IDS, POSITIONS, CAUSAL), np.float32)


COMPILED: Any = nnx.jit(lambda model, ids, positions, mask: model(ids, positions, None, mask)[0])


def write_and_load(folder: Path, model_type: str, changes: dict[str, Any]) -> Any:
    """Write a random folder as we write config.json, and load it."""
    config = tiny_config(model_type, **changes)
    if config["num_key_value_heads"] is None:
        shapes = {**config, "num_key_value_heads": config["num_attention_heads"]}
    else:
        shapes = config
    architecture = parse_config(config, "config.json")
    write_folder(folder, dump_config(architecture, "float32", config), random_tensors(shapes))
    return load_model(open_folder(str(folder)), architecture)


def logits_of_mlx(folder: Path) -> np.ndarray:
    model, _ = load_with_mlx(folder)
    return np.array(model(mx.array(IDS)).astype(mx.float32))


@pytest.mark.parametrize(
    ("model_type", "changes"), CASES, ids=[f"{kind}-{sorted(keys)}" for kind, keys in CASES]
)
def test_logits_equal_those_of_mlx(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    ours = logits_of(write_and_load(tmp_path, model_type, changes))
    theirs = logits_of_mlx(tmp_path)
    assert ours.std() > 0.2
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_models_of_other_settings_in_one_process_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    """Each model keeps its own RoPE, also when both were built before either runs."""
    settings: list[dict[str, Any]] = [
        {"rope_theta": 10000.0, "rope_scaling": LLAMA3},
        {"rope_theta": 500000.0},
    ]
    folders = [tmp_path / str(number) for number in range(2)]
    models = [
        write_and_load(folder, "llama", changes)
        for folder, changes in zip(folders, settings, strict=True)
    ]
    for _ in range(2):
        for model, folder in zip(models, folders, strict=True):
            assert np.abs(logits_of(model) - logits_of_mlx(folder)).max() <= TOLERANCE


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma2", "llama", "qwen2", "qwen3"])
def test_a_bfloat16_model_is_near_its_float32_self(model_type: str, tmp_path: Path) -> None:
    wide = logits_of(write_and_load(tmp_path, model_type, {}))
    architecture = parse_config(tiny_config(model_type), "")
    narrow = load_model(open_folder(str(tmp_path)), architecture, dtype="bfloat16")
    params = jax.tree.leaves(nnx.state(narrow, nnx.Param))
    assert {each.dtype for each in params} == {jnp.dtype("bfloat16")}
    assert 0 < np.abs(logits_of(narrow) - wide).max() < 0.2
