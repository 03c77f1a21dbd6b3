"""Build Qwen 2 and 2.5 models. No other module uses Tunix's Qwen 2 classes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen2.model import ModelConfig, Qwen2

from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.attention.blocks import qwen2_attention, use_attend
from tuneloop.training.models.patches.rope import set_model_rope


def abstract_model(architecture: Architecture, dtype: str) -> Qwen2:
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
    model = nnx.eval_shape(lambda: Qwen2(config, rngs=nnx.Rngs(0)))
    set_model_rope(model, architecture.rope, architecture.head_dim)
    for layer in model.layers:
        use_attend(layer.attn, qwen2_attention)
    return model
