"""Build Gemma 2 models. No other module uses Tunix's Gemma classes."""

from __future__ import annotations

from flax import nnx
from tunix.models.gemma.model import AttentionType, Gemma, ModelConfig

from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.training.models.attention.blocks import gemma_attention, use_attend
from tuneloop.training.models.parameters import set_abstract_dtype
from tuneloop.training.models.patches.norm_epsilon import set_norm_epsilon
from tuneloop.training.models.patches.query_scale import set_query_scalar
from tuneloop.training.models.patches.rope import set_attention_rope

_TUNIX_ROPE = Rope(theta=10_000)
_TUNIX_EPSILON = 1e-6
_ATTENTION_TYPES = {"sliding": AttentionType.LOCAL_SLIDING, "full": AttentionType.GLOBAL}


def abstract_model(architecture: Architecture, dtype: str) -> Gemma:
    """Build the model with shapes instead of arrays."""
    config = ModelConfig(
        num_layers=architecture.num_layers,
        num_embed=architecture.vocab_size,
        embed_dim=architecture.embed_dim,
        hidden_dim=architecture.hidden_dim,
        num_heads=architecture.num_heads,
        head_dim=architecture.head_dim,
        num_kv_heads=architecture.num_kv_heads,
        final_logit_softcap=architecture.final_softcap,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=tuple(_ATTENTION_TYPES[each] for each in architecture.layer_types),
        attn_logits_soft_cap=architecture.attention_softcap,
        sliding_window_size=architecture.sliding_window_tokens,
    )
    model = nnx.eval_shape(lambda: Gemma(config, rngs=nnx.Rngs(0)))
    set_abstract_dtype(model, dtype)
    scalar = architecture.query_scalar or architecture.head_dim
    for layer in model.layers:
        if architecture.rope != _TUNIX_ROPE or scalar != architecture.head_dim:
            set_attention_rope(layer.attn, architecture.rope, architecture.head_dim)
        if scalar != architecture.head_dim:
            set_query_scalar(layer.attn, scalar)
        use_attend(layer.attn, gemma_attention)
    if architecture.norm_eps != _TUNIX_EPSILON:
        set_norm_epsilon(model, architecture.norm_eps)
    return model
