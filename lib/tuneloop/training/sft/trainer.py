"""Tunix's PeftTrainer with train and validation steps that weight every response token equally.

The steps are supplied through Tunix's methods `create_train_step_fn` and `create_eval_step_fn`.
Everything else (loop, optimizer, hooks, saving) is Tunix's.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from tunix.sft import metrics_logger, peft_trainer

from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sft.profiler import StepProfiler
from tuneloop.training.step.mesh import places_of, row_spec, spread_optimizer
from tuneloop.training.step.optimizers import build_optimizer
from tuneloop.training.step.update import StepOptions, measure, update

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

    def __init__(
        self, model: Any, spec: TrainSpec, *, steps: int, seed: int, mesh: Mesh | None = None
    ) -> None:
        """Start at step 0, with a new optimizer state.

        Args:
            model: changed in place.
            spec: optimizer and number format.
            steps: number of optimizer updates of the whole training, for the schedule.
            seed: seed of dropout.
            mesh: devices that train together, on which the model is; None for one device.
        """
        self.values = LastValues()
        self._profiler: StepProfiler | None = None
        self.newest: tuple[jax.Array, jax.Array] | None = None
        """Loss and gradient norm of the newest step of this process, which may still be running."""
        super().__init__(
            model,
            build_optimizer(spec.optimizer, steps),
            peft_trainer.TrainingConfig(
                eval_every_n_steps=NEVER,
                # Arrays of training are (parts, rows, length).
                data_sharding_axis=tuple(row_spec(1)),
            ),
            metrics_logger=self.values,
        )
        self.start_at(0)
        self._options = StepOptions.from_spec(spec, seed, mesh)
        if mesh is not None:
            spread_optimizer(self.optimizer, mesh)

    def create_train_step_fn(self) -> Any:
        """Return the function that Tunix compiles for a step."""
        places = places_of(self.model, self.optimizer) if self._options.mesh else None
        return functools.partial(update, options=self._options, places=places)

    def create_eval_step_fn(self) -> Any:
        """Return the function that Tunix compiles for a batch of validation."""
        return functools.partial(measure, options=self._options)

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
            train = nnx.jit(self.create_train_step_fn(), donate_argnames=("model", "optimizer"))
            train = nnx.cached_partial(train, self.model, self.optimizer)
            measure = nnx.cached_partial(nnx.jit(self.create_eval_step_fn()), self.model)
            self._jitted_train_step_fn = functools.partial(train)
            self._jitted_eval_step_fn = functools.partial(measure)
        return self._jitted_train_step_fn, self._jitted_eval_step_fn

    def start_at(self, step: int) -> None:
        """Count from this step; for a model and an optimizer restored from a checkpoint."""
        self._train_steps = step
        # Tunix marks a step in profiles by this number before it counts it, so it is one ahead.
        self._iter_steps = step + 1

    def profile_with(self, profiler: StepProfiler) -> None:
        """Let a profiler trace steps, instead of Tunix's own one."""
        self._prof = self._profiler = profiler

    def stop_profile(self) -> None:
        """End the trace if one is going on; it is stored later."""
        if self._profiler is not None:
            self._profiler.stop()

    def _post_process_train_step(self, aux: tuple[jax.Array, jax.Array]) -> None:
        """Keep loss and gradient norm of the newest step; Tunix reports them one step late."""
        self.newest = aux

    def newest_values(self) -> tuple[float, float] | None:
        """Return loss and gradient norm of the newest step of this process; waits for them."""
        return None if self.newest is None else (float(self.newest[0]), float(self.newest[1]))
