"""Specs of the model and its tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec

ModelName = Annotated[str, Field(pattern=r"^[a-z]([-.a-z0-9]{0,61}[a-z0-9])?$")]
"""Name of a stored model: lower-case letters, digits, dashes and dots, starting with a letter."""


class RandomModelSpec(Spec):
    """A model of the given shape with random weights drawn from the seed.

    It shows that the loop works on your data; it knows nothing before training.
    """

    kind: Literal["random"] = "random"
    family: Literal["gemma3"] = "gemma3"
    """Model family, as in `FAMILIES`."""
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
    def _shape_fits(self) -> RandomModelSpec:
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


class PretrainedModelSpec(Spec):
    """A model with published or tuned weights; give either `model` or `run`."""

    kind: Literal["pretrained"]
    model: ModelName | None = None
    """Name of a stored model (`tuneloop models add`), or an alias such as `production`; the plan
    holds the digest of the model that the alias names."""
    run: str | None = Field(default=None, pattern=r"^[a-z0-9][-a-z0-9]{0,99}$")
    """Id of a finished run, whose tuned model is trained further."""

    @model_validator(mode="after")
    def _one_source(self) -> PretrainedModelSpec:
        if (self.model is None) == (self.run is None):
            raise ValueError(
                "expected one of the two keys `model` (a stored model's name) and `run` (a run id)"
            )
        return self


ModelSpec = Annotated[RandomModelSpec | PretrainedModelSpec, Field(discriminator="kind")]
"""The model that a run starts from."""


class TokenizerSpec(Spec):
    """A SentencePiece BPE tokenizer that is trained on the text of the examples.

    Only models with random weights use it; a pretrained model brings its own tokenizer.
    """

    kind: Literal["sentencepiece_bpe"] = "sentencepiece_bpe"
    vocab_size: int = Field(default=400, ge=64, le=262144)
    """Maximum number of pieces; a small text yields fewer. The count is padded to a multiple of
    64."""
    sample_examples: int = Field(default=2000, ge=1)
    """Number of examples to train the tokenizer on, taken from the start of the export."""
