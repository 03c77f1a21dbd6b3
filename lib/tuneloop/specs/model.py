"""Specs of the model and its tokenizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec


class ModelSpecBase(Spec):
    """Base class of the specs of all model families."""

    chat_template: ClassVar[str]
    """Name of the chat template of this family, used in training and in generation."""
    kind: str
    """Name of the model family."""


class Gemma3Spec(ModelSpecBase):
    """A Gemma 3 text model of the given shape, with random weights drawn from the seed."""

    chat_template = "gemma3"
    kind: Literal["gemma3"] = "gemma3"
    num_layers: int = Field(default=2, ge=1, le=128)
    """Number of transformer blocks; every sixth block uses global attention."""
    embed_dim: int = Field(default=128, ge=8, le=16384)
    """Width of the embeddings and the residual stream."""
    hidden_dim: int = Field(default=512, ge=8, le=131072)
    """Width of the feed-forward layers."""
    num_heads: int = Field(default=4, ge=1, le=256)
    """Number of query heads per block."""
    num_kv_heads: int = Field(default=2, ge=1, le=256)
    """Number of key-value heads per block; must divide `num_heads`."""
    head_dim: int = Field(default=32, ge=2, le=1024)
    """Width of one attention head; must be even, because RoPE rotates pairs."""
    sliding_window_tokens: int = Field(default=64, ge=1)
    """Tokens that a local attention layer looks back."""

    @model_validator(mode="after")
    def _shape_fits(self) -> Gemma3Spec:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}, expected a divisor of num_heads"
                f" ({self.num_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}, expected an even number, which RoPE needs"
            )
        return self


ModelSpec = Gemma3Spec
"""Any model that a run can train. With a second family this becomes a union discriminated by
`kind`: `Annotated[Gemma3Spec | Qwen3Spec, Field(discriminator="kind")]`."""


class TokenizerSpec(Spec):
    """A SentencePiece BPE tokenizer that is trained on the text of the examples."""

    kind: Literal["sentencepiece_bpe"] = "sentencepiece_bpe"
    vocab_size: int = Field(default=400, ge=64, le=262144)
    """Maximum number of pieces; a small text yields fewer. The count is padded to a multiple of
    64."""
    sample_examples: int = Field(default=2000, ge=1)
    """Number of examples to train the tokenizer on, taken from the start of the export."""
