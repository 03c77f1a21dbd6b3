"""The architecture of a language model: its family and its shape, as read from `config.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Spec


class Rope(Spec):
    """Rotary position embedding (RoPE) of one kind of attention layer."""

    theta: float = Field(gt=0)
    """Base of the rotation frequencies: pair i of a head turns by `theta ** (-2i / head_dim)`."""
    kind: Literal["default", "linear", "llama3"] = "default"
    """How the frequencies are scaled for longer contexts: not at all, all by `1 / factor`, or as
    in Llama 3.1, which scales only the low ones."""
    factor: float = Field(default=1.0, gt=0)
    """Scaling factor of the kinds linear and llama3."""
    low_freq_factor: float = 1.0
    """Kind llama3: wavelengths over `original_max_positions / low_freq_factor` are scaled fully."""
    high_freq_factor: float = 4.0
    """Kind llama3: wavelengths under `original_max_positions / high_freq_factor` are not scaled."""
    original_max_positions: int = 8192
    """Kind llama3: context length of the model before its context was extended, in tokens."""


class Architecture(Spec):
    """Family and shape of a model; with the weights, everything that determines its output."""

    family: str
    """Name of the model family, a key of `FAMILIES`."""
    num_layers: int = Field(ge=1, le=1024)
    """Number of transformer blocks."""
    embed_dim: int = Field(ge=1)
    """Width of the embeddings and the residual stream."""
    hidden_dim: int = Field(ge=1)
    """Width of the feed-forward layers."""
    num_heads: int = Field(ge=1)
    """Number of query heads per block."""
    num_kv_heads: int = Field(ge=1)
    """Number of key-value heads per block; divides `num_heads`."""
    head_dim: int = Field(ge=2)
    """Width of one attention head."""
    vocab_size: int = Field(ge=1)
    """Rows of the embedding; may exceed the pieces of the tokenizer."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Constant added to the variance in every RMS norm."""
    tied_embeddings: bool = True
    """Whether the LM head uses the weights of the embedding."""
    rope: Rope
    """RoPE of the attention layers; of the global ones if there are local ones."""
    local_rope: Rope | None = None
    """RoPE of the sliding-window layers; null if they use `rope`."""
    sliding_window_tokens: int | None = Field(default=None, ge=1)
    """Tokens that a sliding-window layer looks back; null if there are no such layers."""
    layer_types: tuple[Literal["sliding", "full"], ...] = ()
    """Kind of attention of each layer; empty if all layers use full attention."""
    query_scalar: float | None = None
    """Queries are multiplied by `query_scalar ** -0.5`; null means `head_dim`."""
    attention_softcap: float | None = None
    """Limit of the attention scores, as `cap * tanh(score / cap)`; null sets none."""
    final_softcap: float | None = None
    """Limit of the logits, as `cap * tanh(logit / cap)`; null sets none."""
    max_positions: int = Field(default=8192, ge=1)
    """Longest context the model was trained for, in tokens."""
