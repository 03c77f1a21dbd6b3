"""Let the attention modules of Tunix call `attend` when they train.

A Tunix model passes `attention_mask` on to its blocks as it is. The training step passes segment
ids in its place, which have one dimension less; then a block computes its projections and calls
`attend`. With a mask, as generation passes it, Tunix's own code runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from tunix.utils.sharding_utils import shard

from tuneloop.training.models.attention.attend import attend
from tuneloop.training.models.attention.options import AttentionOptions
from tuneloop.training.models.patches.classes import set_class, subclass

_MASK_DIMENSIONS = 3


def use_attend(attention: Any, family_class: Callable[[Any], type]) -> None:
    """Let an attention module call `attend`.

    Call it after all patches of the module: for masks, the block that it finds is kept.

    Args:
        attention: an attention module of Tunix.
        family_class: one of the functions of this module, such as `gemma_attention`.
    """
    set_class(attention, family_class(type(attention)))


@functools.cache
def gemma_attention(base: Any) -> type:
    """Derive the class of a Gemma 2 or Gemma 3 attention module."""
    rotate = base.block.__globals__["apply_rope"]

    def block(self: Any, x: Any, positions: Any, cache: Any, attention_mask: Any) -> Any:
        if attention_mask.ndim == _MASK_DIMENSIONS:
            return base.block(self, x, positions, cache, attention_mask)
        if self.use_qkv_einsum:
            query, key, value = self.qkv_einsum(x)
        else:
            query = self.q_einsum(x)
            key, value = self.kv_einsum(x)
        query, key, value = _shard_heads(self, query, key, value)
        scale, rope = self.head_dim**-0.5, {}
        if hasattr(self, "query_pre_attn_scalar"):  # Gemma 3
            query, key = self._query_norm(query), self._key_norm(key)
            scale = self.query_pre_attn_scalar
            rope = {
                "base_frequency": self.rope_base_frequency,
                "scale_factor": self.rope_scale_factor,
            }
        encoded = attend(
            rotate(query, positions, head_dim=self.head_dim, **rope),
            rotate(key, positions, head_dim=self.head_dim, **rope),
            value,
            attention_mask,
            scale=scale,
            options=self.attention_options,
            window=self.sliding_window_size if self.attn_type.name == "LOCAL_SLIDING" else None,
            softcap=getattr(self, "attn_logits_soft_cap", None),
        )
        return None, shard(self.attn_vec_einsum(encoded), self.shd_config.act_btd)

    return subclass(base, block=block, attention_options=AttentionOptions())


@functools.cache
def llama_attention(base: Any) -> type:
    """Derive the class of a Llama 3 or Qwen 3 attention module."""
    rotate = base.block.__globals__["apply_rope"]

    def block(
        self: Any, x: Any, positions: Any, cache: Any, attention_mask: Any, *_: Any, **others: Any
    ) -> Any:
        if attention_mask.ndim == _MASK_DIMENSIONS:
            return base.block(self, x, positions, cache, attention_mask, **others)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if hasattr(self, "q_norm"):  # Qwen 3
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = _shard_heads(self, query, key, value)
        encoded = attend(
            rotate(query, positions, head_dim=self.head_dim),
            rotate(key, positions, head_dim=self.head_dim),
            value,
            attention_mask,
            scale=self.scale,
            options=self.attention_options,
        )
        return None, shard(self.o_proj(encoded), self.shd_config.act_btd)

    return subclass(base, block=block, attention_options=AttentionOptions())


@functools.cache
def qwen2_attention(base: Any) -> type:
    """Derive the class of a Qwen 2 attention module, whose model computes the angles of RoPE."""
    rotate = base.block.__globals__["apply_rotary_embedding"]

    def block(
        self: Any, x: Any, cache: Any, attention_mask: Any, sin: Any, cos: Any, *_: Any
    ) -> Any:
        if attention_mask.ndim == _MASK_DIMENSIONS:
            return base.block(self, x, cache, attention_mask, sin, cos)

        def project(layer: Any, bias: Any) -> Any:
            heads = layer(x)
            return heads + bias.get_value().astype(self.config.dtype).reshape(heads.shape[2:])

        query = project(self.q_proj, self.q_bias)
        key = project(self.k_proj, self.k_bias)
        value = project(self.v_proj, self.v_bias)
        query, key, value = _shard_heads(self, query, key, value)
        encoded = attend(
            rotate(query, sin, cos),
            rotate(key, sin, cos),
            value,
            attention_mask,
            scale=self.scale,
            options=self.attention_options,
        )
        return None, shard(self.o_proj(encoded), self.shd_config.act_btd)

    return subclass(base, block=block, attention_options=AttentionOptions())


def _shard_heads(attention: Any, *arrays: jax.Array) -> list[Any]:
    """Split arrays of shape (rows, length, heads, width) as the module asks for it."""
    return [shard(array, attention.shd_config.act_btnh) for array in arrays]
