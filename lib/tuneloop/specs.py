"""What people ask for: the run spec, and the stage specs that a plan makes of it.

One rule: a field either names the result (identity) or says where it is made (execution). Identity
enters the fingerprint; `execution` never does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STAGES = ("export", "train", "eval", "import")
"""The stages in the order of the loop; each reads only the records of stages before it."""

StageName = Literal["export", "train", "eval", "import"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Spec(BaseModel):
    """Base of every spec: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Gemma3Spec(Spec):
    """A Gemma 3 text model built from its shape, with weights drawn anew from the seed."""

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


class TokenizerSpec(Spec):
    """A SentencePiece BPE tokenizer trained on the examples' own text."""

    kind: Literal["sentencepiece_bpe"] = "sentencepiece_bpe"
    vocab_size: int = Field(default=400, ge=64, le=262144)
    """Pieces asked for; small text yields fewer, and the count is padded to a multiple of 64."""
    sample_examples: int = Field(default=2000, ge=1)
    """How many examples, the first in export order, it is trained on."""


class OptimizerSpec(Spec):
    """AdamW with global-norm clipping, linear warm-up and cosine decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=5e-3, gt=0, lt=10)
    """Peak, after the warm-up."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps that rise linearly from 0; at least one step."""
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """The learning rate of the last step, as a share of the peak."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    b2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm above which gradients are scaled down."""
