"""The optimizer and its learning rate schedule."""

from __future__ import annotations

import optax

from tuneloop.specs.training import OptimizerSpec


def learning_rate_schedule(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """Build the schedule: linear warm-up from 0 to the peak, then cosine decay.

    The decay ends at the last step with `min_lr_ratio` times the peak learning rate.
    """
    warmup = max(1, round(spec.warmup_ratio * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=spec.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=spec.learning_rate * spec.min_lr_ratio,
    )


def build_optimizer(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    """Build AdamW with the learning rate schedule, after clipping by global norm."""
    return optax.chain(
        optax.clip_by_global_norm(spec.max_grad_norm),
        optax.adamw(
            learning_rate_schedule(spec, steps),
            b1=spec.beta1,
            b2=spec.beta2,
            weight_decay=spec.weight_decay,
        ),
    )
