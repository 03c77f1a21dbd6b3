"""Build Llama 3 models (3, 3.1, 3.2, SmolLM2). No other module uses Tunix's Llama 3 classes."""

from __future__ import annotations

from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig

from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.attention.blocks import llama_attention, use_attend
from tuneloop.training.models.parameters import set_abstract_dtype
from tuneloop.training.models.patches.rope import set_attention_rope


def abstract_model(architecture: Architecture, dtype: str) -> Llama3:
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
        weight_tying=architecture.tied_embeddings,
    )
    model = nnx.eval_shape(lambda: Llama3(config, rngs=nnx.Rngs(0)))
    set_abstract_dtype(model, dtype)
    for layer in model.layers:
        set_attention_rope(layer.attn, architecture.rope, architecture.head_dim)
        use_attend(layer.attn, llama_attention)
    return model
