"""The optimizers and the learning rate schedules: one row of a table each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from tuneloop.specs.training.optimizer import AdafactorSpec, AdamWSpec, MuonSpec, OptimizerSpec

MUON_RMS = 0.2
"""Root mean square of Muon's updates before the learning rate, which is about that of AdamW's
(Liu et al. 2025, https://arxiv.org/abs/2502.16982)."""
NOT_FOR_MUON = ("embed", "lm_head")
"""Parts of the names of matrices that are lookups or outputs; Muon is made for hidden layers."""
BLOCK_RMS = 1.0
"""Adafactor scales an update of a parameter down to this root mean square, as in its paper."""


def warmup_steps(spec: OptimizerSpec, steps: int) -> int:
    """Return the number of warm-up steps of a training of this many steps."""
    if spec.warmup_steps is not None:
        return spec.warmup_steps
    return max(1, round(spec.warmup_ratio * steps))


def learning_rate_schedule(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """Build the schedule: linear warm-up from 0 to the peak, then the schedule of the spec.

    A decay ends at the last step with `min_lr_ratio` times the peak learning rate. An update uses
    the value at the number of updates before it, so the first update of a warm-up changes nothing.
    """
    warmup = warmup_steps(spec, steps)
    decay = SCHEDULES[spec.schedule](spec.learning_rate, max(1, steps - warmup), spec.min_lr_ratio)
    if not warmup:
        return decay
    rise = optax.linear_schedule(0.0, spec.learning_rate, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def learning_rates(spec: OptimizerSpec, steps: int) -> np.ndarray:
    """Compute the learning rate of every step at once: float32 (steps,), on the host.

    A call of the schedule for one step starts some twenty small operations on the device, which
    wait for the training step that is running there.
    """
    schedule = learning_rate_schedule(spec, steps)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)), np.float32)


def build_optimizer(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    """Build the optimizer with its learning rate schedule, after clipping by global norm."""
    schedule = learning_rate_schedule(spec, steps)
    return optax.chain(
        optax.clip_by_global_norm(spec.max_grad_norm), OPTIMIZERS[spec.kind](spec, schedule)
    )


def _adamw(spec: AdamWSpec | MuonSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(schedule, b1=spec.beta1, b2=spec.beta2, weight_decay=spec.weight_decay)


def _adafactor(spec: AdafactorSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    # optax.adafactor does not multiply the weight decay by the learning rate.
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=spec.decay_rate),
        optax.clip_by_block_rms(BLOCK_RMS),
        optax.add_decayed_weights(spec.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(spec: MuonSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    # optax.contrib.muon alone would train the other parameters with Nesterov's variant of Adam.
    muon = contrib.muon(
        schedule, beta=spec.momentum, weight_decay=spec.weight_decay, consistent_rms=MUON_RMS
    )
    return optax.partition({"muon": muon, "adamw": _adamw(spec, schedule)}, _muon_or_adamw)


def _muon_or_adamw(params: Any) -> Any:
    """Return the name of the optimizer of each parameter."""

    def choose(path: tuple[Any, ...], value: jax.Array) -> str:
        name = jax.tree_util.keystr(path)
        is_hidden = value.ndim == 2 and not any(part in name for part in NOT_FOR_MUON)
        return "muon" if is_hidden else "adamw"

    return jax.tree_util.tree_map_with_path(choose, params)


OPTIMIZERS: dict[str, Callable[[Any, optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "muon": _muon,
}
"""Kind of an optimizer spec -> builder from the spec and the learning rate schedule."""

SCHEDULES: dict[str, Callable[[float, int, float], optax.Schedule]] = {
    "cosine": lambda peak, steps, end: optax.cosine_decay_schedule(peak, steps, alpha=end),
    "linear": lambda peak, steps, end: optax.linear_schedule(peak, peak * end, steps),
    "constant": lambda peak, steps, end: optax.constant_schedule(peak),
}
"""Name of a schedule -> builder from peak, steps after the warm-up, and share at the end."""
