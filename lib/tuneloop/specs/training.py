"""Options of the train stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Spec
from tuneloop.specs.model import ModelSpec, RandomModelSpec, TokenizerSpec


class OptimizerSpec(Spec):
    """AdamW with gradient clipping, linear warm-up and cosine decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=5e-3, gt=0, lt=10)
    """Peak learning rate, reached at the end of the warm-up."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps, 0 to 1, in which the learning rate rises linearly from 0; at least one
    step."""
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    """Learning rate of the last step as a share of the peak, 0 to 1."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the first moment, 0 to 1; a higher value averages over more steps."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of the second moment, 0 to 1; a higher value averages over more steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay coefficient; 0 turns it off."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Maximum global gradient norm; gradients with a larger norm are scaled down to it."""


class TrainSpec(Spec):
    """Supervised fine-tuning (SFT) with the loss on the response tokens only."""

    model: ModelSpec = RandomModelSpec()
    """Model that the run starts from: random weights, a stored model, or another run's."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """Tokenizer of the model."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimizer and learning rate schedule."""
    steps: int = Field(ge=1)
    """Number of optimizer updates."""
    batch_size: int = Field(ge=1)
    """Examples per optimizer update, over all devices together."""
    max_length_tokens: int = Field(ge=8)
    """Maximum tokens of an example: prompt, response and control tokens together. A longer example
    fails the stage; `export.over_length` drops or shortens such examples before training."""
    thinking: Literal["steps", "plain"] = "plain"
    """Where the reasoning steps of a response go: into the thinking block of a model that has one,
    such as Qwen 3 (`steps`), or into its text, with thinking switched off (`plain`)."""
