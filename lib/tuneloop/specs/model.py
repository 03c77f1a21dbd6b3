"""Specs of the network and of its tokenizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec


class ModelSpecBase(Spec):
    """What the specs of all model families have in common."""

    chat_template: ClassVar[str]
    """Name of the chat template that models of this family are trained and asked with."""
    kind: str
    """Name of the model family."""


class Gemma3Spec(ModelSpecBase):
    """A Gemma 3 text model built from its shape, with weights drawn anew from the seed."""

    chat_template = "gemma3"
    kind: Literal["gemma3"] = "gemma3"
    num_layers: int = Field(default=2, ge=1, le=128)
    """Transformer blocks; every sixth attends globally, as in Gemma 3."""
    embed_dim: int = Field(default=128, ge=8, le=16384)
    """Width of the residual stream."""
    hidden_dim: int = Field(default=512, ge=8, le=131072)
    """Width of the feed-forward layer."""
    num_heads: int = Field(default=4, ge=1, le=256)
    """Query heads."""
    num_kv_heads: int = Field(default=2, ge=1, le=256)
    """Key and value heads; divides num_heads."""
    head_dim: int = Field(default=32, ge=2, le=1024)
    """Width of one head; even, because RoPE turns pairs."""
    sliding_window_tokens: int = Field(default=64, ge=1)
    """How far a local layer looks back."""

    @model_validator(mode="after")
    def _shape_fits(self) -> Gemma3Spec:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, RoPE needs an even one")
        return self


ModelSpec = Gemma3Spec
"""Any model that a run can train. A second family makes this a union discriminated by `kind`:
`Annotated[Gemma3Spec | Qwen3Spec, Field(discriminator="kind")]`."""


class TokenizerSpec(Spec):
    """A SentencePiece BPE tokenizer trained on the examples' own text."""

    kind: Literal["sentencepiece_bpe"] = "sentencepiece_bpe"
    vocab_size: int = Field(default=400, ge=64, le=262144)
    """Pieces asked for; small text yields fewer, and the count is padded to a multiple of 64."""
    sample_examples: int = Field(default=2000, ge=1)
    """How many examples, the first in export order, it is trained on."""
