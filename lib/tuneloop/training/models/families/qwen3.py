"""Build Qwen 3 models without experts. No other module uses Tunix's Qwen 3 classes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen3.model import ModelConfig, Qwen3

from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.attention.blocks import llama_attention, use_attend
from tuneloop.training.models.patches.rope import set_attention_rope


def abstract_model(architecture: Architecture, dtype: str) -> Qwen3:
    """Build the model with shapes instead of arrays."""
    config = ModelConfig(
        num_layers=architecture.num_layers,
        vocab_size=architecture.vocab_size,
        embed_dim=architecture.embed_dim,
        hidden_dim=architecture.hidden_dim,
        num_heads=architecture.num_heads,
        head_dim=architecture.head_dim,
        num_kv_heads=architecture.num_kv_heads,
        rope_theta=int(architecture.rope.theta),
        norm_eps=architecture.norm_eps,
        use_tied_embedding=architecture.tied_embeddings,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(dtype),
    )
    model = nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0)))
    for layer in model.layers:
        set_attention_rope(layer.attn, architecture.rope, architecture.head_dim)
        use_attend(layer.attn, llama_attention)
    return model
