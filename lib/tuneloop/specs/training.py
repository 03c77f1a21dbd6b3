"""Options of the train stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Spec
from tuneloop.specs.model import Gemma3Spec, ModelSpec, TokenizerSpec


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


class TrainSpec(Spec):
    """Supervised fine-tuning with a loss on the response alone."""

    model: ModelSpec = Gemma3Spec()
    """The network."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """How text becomes tokens."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The update rule and its schedule."""
    steps: int = Field(ge=1)
    """Optimizer updates."""
    batch_size: int = Field(ge=1)
    """Examples in one update; epoch after epoch, each in an order of its own."""
    max_length_tokens: int = Field(ge=8)
    """Tokens in one row, prompt and response and control tokens together."""
    over_length: Literal["fail", "drop", "truncate"] = "fail"
    """What happens to a longer example: stop with its id, leave it out, or cut its tail."""
