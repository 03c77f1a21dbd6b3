"""Tunix's PeftTrainer with train and validation steps that weight every response token equally.

The steps are supplied through Tunix's methods `create_train_step_fn` and `create_eval_step_fn`.
Everything else (loop, optimizer, hooks, saving) is Tunix's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.interpreters import pxla
from tunix.sft import metrics_logger, peft_trainer

from tuneloop.specs.training import TrainSpec
from tuneloop.training.models.lora.provider import adapter_dropout
from tuneloop.training.sft.distributed import AXIS
from tuneloop.training.sft.loss import model_inputs, token_losses
from tuneloop.training.sft.optimizers import build_optimizer

NEVER = 2**31 - 1


class LastValues(metrics_logger.MetricsLogger):  # type: ignore[misc]  # tunix is untyped
    """A metrics logger that keeps the newest value of each metric.

    Tunix's own loggers register global listeners with jax.monitoring, so two trainers in one
    process would write to each other's files.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.last: dict[str, float] = {}

    def log(
        self, metrics_prefix: str, metric_name: str, scalar_value: Any, mode: Any, step: int
    ) -> None:
        """Keep a value (Tunix's hook)."""
        self.last[metric_name] = float(scalar_value)

    def close(self) -> None:
        """Do nothing. Tunix's own method would remove the global listeners."""


class SftTrainer(peft_trainer.PeftTrainer):  # type: ignore[misc]  # tunix is untyped
    """Trains all parameters of a model, or its adapters alone if it has any."""

    def __init__(self, model: Any, spec: TrainSpec, *, steps: int, seed: int) -> None:
        """Start at step 0, with a new optimizer state.

        Args:
            model: changed in place.
            spec: optimizer and number format.
            steps: number of optimizer updates of the whole training, for the schedule.
            seed: seed of dropout.
        """
        self.values = LastValues()
        self._newest: tuple[jax.Array, jax.Array] | None = None
        super().__init__(
            model,
            build_optimizer(spec.optimizer, steps),
            peft_trainer.TrainingConfig(
                eval_every_n_steps=NEVER,
                # Arrays of training are (parts, rows, length), split over the devices by rows.
                data_sharding_axis=(None, AXIS),
            ),
            metrics_logger=self.values,
        )
        self._dtype, self._seed = jnp.dtype(spec.dtype), seed
        mesh = pxla.thread_resources.env.physical_mesh
        self._mesh = None if mesh.empty else mesh

    def create_train_step_fn(self) -> Any:
        """Return the function that Tunix compiles for a step."""
        return self._update

    def create_eval_step_fn(self) -> Any:
        """Return the function that Tunix compiles for a batch of validation."""
        return self._measure

    def jit_train_and_eval_step(
        self, skip_jit: bool = False, cache_nnx_graph: bool = False
    ) -> tuple[Any, Any]:
        """Compile the steps (Tunix's hook); the train step reuses the memory of its arguments.

        Tunix lets it reuse that of the optimizer alone. Every step would then return a copy of all
        weights, even of frozen ones, and two steps can be on their way at once.

        Args:
            skip_jit: not used.
            cache_nnx_graph: not used; the structure of the model is always cached.
        """
        if getattr(self, "_jitted_train_step_fn", None) is None:
            self._shard_optimizer(pxla.thread_resources.env.physical_mesh)
            train = nnx.jit(self.create_train_step_fn(), donate_argnames=("model", "optimizer"))
            train = nnx.cached_partial(train, self.model, self.optimizer)
            measure = nnx.cached_partial(nnx.jit(self.create_eval_step_fn()), self.model)
            self._jitted_train_step_fn = functools.partial(train)
            self._jitted_eval_step_fn = functools.partial(measure)
        return self._jitted_train_step_fn, self._jitted_eval_step_fn

    def start_at(self, step: int) -> None:
        """Count from this step; for a model and an optimizer restored from a checkpoint."""
        self._train_steps = self._iter_steps = step

    def _update(
        self, model: Any, optimizer: Any, inputs: dict[str, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
        """Update the model once; runs inside jit.

        The parts of the batch are computed one after the other. Each part's loss is divided by the
        targets of the whole batch, so that the sums over the parts are the loss and the gradient of
        the whole batch. (optax.MultiSteps would average the means of the parts.)

        Args:
            model: changed in place.
            optimizer: changed in place.
            inputs: arrays of a batch, each of shape (parts, rows, length).

        Returns:
            The loss in nats per response token, both other values as a pair, and the gradient norm
            before clipping.
        """
        kind = nnx.LoRAParam if self._lora_enabled else nnx.Param
        graph, trained, rest = nnx.split(model, kind, ...)
        targets = jnp.maximum(inputs["loss_mask"][..., 1:].sum(), 1)
        key = jax.random.fold_in(jax.random.key(self._seed), optimizer.step.get_value())

        def loss_of(trained: Any, part: dict[str, jax.Array], key: jax.Array) -> jax.Array:
            copy = compute_copy(self._dtype, graph, trained, rest)
            with adapter_dropout(copy, key):
                total, _ = token_losses(copy, model_inputs(part), self._mesh)
            return total / targets

        def compute(numbered: Any) -> Any:
            number, part = numbered
            return jax.value_and_grad(loss_of)(trained, part, jax.random.fold_in(key, number))

        parts = inputs["tokens"].shape[0]
        numbered = (jnp.arange(parts), inputs)
        if parts == 1:  # without a loop, XLA needs no second buffer for the gradients
            loss, gradients = compute(jax.tree.map(lambda array: array[0], numbered))
        else:
            zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
            (loss, gradients), _ = jax.lax.scan(
                lambda sums, each: (jax.tree.map(jnp.add, sums, compute(each)), None),
                zeros,
                numbered,
            )
        norm = optax.global_norm(gradients)
        optimizer.update(model, gradients)
        return loss, (loss, norm), norm

    def _post_process_train_step(self, aux: tuple[jax.Array, jax.Array]) -> None:
        """Keep loss and gradient norm of the newest step; Tunix reports them one step late."""
        self._newest = aux

    def newest_values(self) -> tuple[float, float] | None:
        """Return loss and gradient norm of the newest step of this process; waits for them."""
        return None if self._newest is None else (float(self._newest[0]), float(self._newest[1]))

    def _measure(self, model: Any, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return the sum of the losses of a batch and its number of targets; runs inside jit.

        Args:
            model: not changed; its dropout is off.
            inputs: arrays of a batch, each of shape (rows, length).
        """
        copy = compute_copy(self._dtype, *nnx.split(model))
        return token_losses(copy, model_inputs(inputs), self._mesh)


def compute_copy(dtype: jnp.dtype, graph: Any, *states: Any) -> Any:
    """Merge a model for one computation, in bfloat16 if that is the dtype.

    Adapters stay float32; their layers return the dtype of the model. Quantized weights stay as
    they are. Some of Tunix's families convert to a `dtype` that each module or its config holds.

    Args:
        dtype: float32 or bfloat16; float32 leaves the model as it is.
        graph: the graph definition that `nnx.split` returns.
        states: the states that it returns. They do not change: their values may be tracers, so that
            gradients are computed with respect to the unconverted ones.
    """
    if dtype == jnp.float32:
        return nnx.merge(graph, *states)

    def convert(path: tuple[Any, ...], variable: Any) -> Any:
        value = variable.get_value()
        is_weight = isinstance(variable, nnx.Param) and not isinstance(variable, nnx.LoRAParam)
        if is_weight and isinstance(value, jax.Array) and value.dtype == jnp.float32:
            return variable.replace(value.astype(dtype))
        return variable

    # Merging shares the variables, so that a change of one would change the model itself.
    model = nnx.merge(graph, *(nnx.map_state(convert, state) for state in states))
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "dtype"):
            module.dtype = dtype
        config: Any = getattr(module, "config", None)
        if hasattr(config, "dtype"):
            module.config = dataclasses.replace(config, dtype=dtype)
    return model
