"""Optimizer and learning rate schedule of the train stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tuneloop.specs.base import Spec

Schedule = Literal["cosine", "linear", "constant"]


class _OptimizerBase(Spec):
    """Keys that every optimizer has."""

    learning_rate: float = Field(default=5e-3, gt=0, lt=10)
    """Peak learning rate, reached at the end of the warm-up. The default is for random weights; for
    a pretrained model it is 2e-5, or 2e-4 with adapters."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up: a cosine curve or a straight line down to
    `min_lr_ratio`, or constant at the peak."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps, 0 to 1, in which the learning rate rises linearly from 0; at least one
    step."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Number of steps in which the learning rate rises linearly from 0; 0 starts at the peak, null
    uses `warmup_ratio`."""
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    """Learning rate at the end of the decay as a share of the peak, 0 to 1; a constant schedule
    does not use it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay coefficient, multiplied by the learning rate; 0 turns it off."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Maximum global gradient norm; gradients with a larger norm are scaled down to it."""


class AdamWSpec(_OptimizerBase):
    """AdamW with gradient clipping, warm-up and a learning rate schedule."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the first moment, 0 to 1; a higher value averages over more steps."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of the second moment, 0 to 1; a higher value averages over more steps."""


class AdafactorSpec(_OptimizerBase):
    """Adafactor: needs less memory than AdamW, because it keeps sums over rows and columns.

    It uses the given learning rate as it is, like Hugging Face's Trainer does, and no momentum.
    """

    kind: Literal["adafactor"]
    decay_rate: float = Field(default=0.8, gt=0, le=1)
    """Exponent of the decay of the second moment: 1 - step^-decay_rate; a higher value averages
    over more steps."""


class MuonSpec(_OptimizerBase):
    """Muon for the two-dimensional weights inside the blocks, AdamW for all others.

    The embedding, the output head, vectors and weights of more than two dimensions (Gemma's
    attention) use AdamW. Updates have the size of AdamW's, so the same learning rates work.
    """

    kind: Literal["muon"]
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of Muon's momentum, 0 to 1; a higher value averages over more steps."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of AdamW's first moment, 0 to 1."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of AdamW's second moment, 0 to 1."""


def _adamw_by_default(value: Any) -> Any:
    return {"kind": "adamw", **value} if isinstance(value, dict) else value


OptimizerSpec = Annotated[
    AdamWSpec | AdafactorSpec | MuonSpec,
    Field(discriminator="kind"),
    BeforeValidator(_adamw_by_default),
]
"""Optimizer and learning rate schedule; `kind` is adamw if it is left out."""
