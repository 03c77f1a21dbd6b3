"""Tiny checkpoints in Hugging Face layout, made without the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        # mlx-lm needs six layers: it looks for the first one with full attention.
        "num_hidden_layers": 6,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "rope_theta": 1000000.0,
    },
    # As long as the sequences of the tests: mlx-lm's Gemma 2 has no sliding window.
    "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 48},
    "llama": {"rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    "qwen2": {"rope_theta": 1000000.0},
    "qwen3": {"rope_theta": 1000000.0},
}
TWO_KINDS = {"num_hidden_layers": 2, "sliding_window_pattern": 2}
"""Changes of a Gemma 3: one block of each kind, which compile three times as fast as six."""
MODEL_TYPES = {"gemma3": "gemma3_text", "llama3": "llama"}
"""Family -> model type, where they differ."""

_NAMES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
}


def tiny_config(model_type: str, /, **overrides: Any) -> dict[str, Any]:
    """Build a config.json in the dialect of transformers 4; ... removes a key."""
    config = {"model_type": model_type, **SHAPE, **CONFIGS[model_type], **overrides}
    return {key: value for key, value in config.items() if value is not ...}


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """List the tensors of a text model as transformers names them."""
    kind, d, f = config["model_type"], config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = (config[f"num_{each}_heads"] * head for each in ("attention", "key_value"))
    is_gemma = kind.startswith("gemma")
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], d),
        "model.norm.weight": (d,),
    }
    if not config.get("tie_word_embeddings", is_gemma):
        shapes["lm_head.weight"] = (config["vocab_size"], d)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (d,),
        "post_attention_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (q, d),
        "self_attn.k_proj.weight": (kv, d),
        "self_attn.v_proj.weight": (kv, d),
        "self_attn.o_proj.weight": (d, q),
        "mlp.gate_proj.weight": (f, d),
        "mlp.up_proj.weight": (f, d),
        "mlp.down_proj.weight": (d, f),
    }
    if is_gemma:
        layer["pre_feedforward_layernorm.weight"] = (d,)
        layer["post_feedforward_layernorm.weight"] = (d,)
    if kind in ("gemma3_text", "qwen3"):
        layer["self_attn.q_norm.weight"] = layer["self_attn.k_norm.weight"] = (head,)
    if kind == "qwen2":
        layer |= {f"self_attn.{x}_proj.bias": (n,) for x, n in (("q", q), ("k", kv), ("v", kv))}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def random_tensors(
    config: Mapping[str, Any], dtype: Any = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw tensors that keep activations near 1, so that differences of logits mean something."""
    rng = np.random.default_rng(seed)
    centre = 0.0 if config["model_type"].startswith("gemma") else 1.0

    def draw(shape: tuple[int, ...], name: str) -> np.ndarray:
        noise = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith(".bias"):
            return noise * np.float32(0.3)
        if len(shape) == 1:
            return noise * np.float32(0.1) + np.float32(centre)
        return noise * np.float32(shape[1] ** -0.5)

    return {name: draw(shape, name).astype(dtype) for name, shape in tensor_shapes(config).items()}


def safetensors_bytes(tensors: Mapping[str, np.ndarray], **changes: Any) -> bytes:
    """Serialize tensors; `changes` replace entries of the header, to build broken files."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    header.update(changes)
    text = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    return struct.pack("<Q", len(text)) + text + body


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write a folder with one safetensors file and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    data = safetensors_bytes(random_tensors(config) if tensors is None else tensors)
    (folder / "model.safetensors").write_bytes(data)
    return folder
