"""The optimizer and its learning rate schedule."""

from __future__ import annotations

import optax

from tuneloop.specs.training import OptimizerSpec


def learning_rate_schedule(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """Linear from 0 to the peak, then cosine to `final_fraction` of it at the last step."""
    warmup = max(1, round(spec.warmup_fraction * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=spec.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=spec.learning_rate * spec.final_fraction,
    )


def build_optimizer(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW on the schedule."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            learning_rate_schedule(spec, steps),
            b1=spec.b1,
            b2=spec.b2,
            weight_decay=spec.weight_decay,
        ),
    )
