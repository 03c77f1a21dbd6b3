"""Supervised fine-tuning with Tunix's PeftTrainer: all parameters, loss on the response only.

The result is a function of (weights, token table, spec, seed); interruptions do not change it.
After one, a checkpoint restores optimizer state and weights, the batch stream continues at the
restored step, and a checkpoint without stored metrics is not used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from tunix.sft import hooks, metrics_logger, peft_trainer

from tuneloop.specs.training import TrainSpec
from tuneloop.training.sft.batches import TokenTable, batch_at, padded_length
from tuneloop.training.sft.checkpoints import Checkpoints
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.sft.loss import model_inputs, response_loss
from tuneloop.training.sft.metrics import StepMetrics, read_metrics, write_metrics
from tuneloop.training.sft.optimizers import build_optimizer, learning_rate_schedule

log = logging.getLogger(__name__)

NEVER = 2**31 - 1


@dataclass(frozen=True)
class Progress:
    """The state of a training that has finished or was stopped."""

    metrics: list[StepMetrics]
    """Metrics of all steps so far, including those of earlier processes."""
    resumed_from: int
    """Step of the checkpoint that this process resumed from; 0 if there was none."""
    finished: bool
    """Whether the last step is done; if not, call `run_sft` again to continue."""
    checkpoint_step: int
    """Step of the newest stored checkpoint; 0 if there is none."""


class _LastValues(metrics_logger.MetricsLogger):  # type: ignore[misc]  # tunix is untyped
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
        self.last[metric_name] = float(scalar_value)

    def close(self) -> None:
        """Do nothing. Tunix's own method would remove the global listeners."""


class _Loop(hooks.TrainingHooks, hooks.DataHooks):  # type: ignore[misc]  # tunix is untyped
    """Trainer hooks that supply batches by step number and collect metrics.

    With an iterator instead of data hooks, Tunix would read and discard every batch before the
    resumed step, and one batch too many at the end.
    """

    def __init__(
        self,
        table: TokenTable,
        spec: TrainSpec,
        seed: int,
        resume_prefix: str,
        checkpoint_every: int,
        metrics: list[StepMetrics],
        report: Callable[[StepMetrics], None],
        should_stop: Callable[[], bool],
        values: _LastValues,
        process_group: ProcessGroup,
    ) -> None:
        self.table, self.spec, self.seed = table, spec, seed
        self.resume_prefix, self.checkpoint_every = resume_prefix, checkpoint_every
        self.metrics, self.report, self.should_stop = metrics, report, should_stop
        self.values, self.process_group = values, process_group
        self.schedule = learning_rate_schedule(spec.optimizer, spec.steps)
        self.length = padded_length(table, spec.max_length_tokens)
        self.tokens: dict[int, int] = {}
        self.since = time.perf_counter()

    def load_next_train_batch(self, train_ctx: Any) -> dict[str, Any] | None:
        step = train_ctx.train_steps
        if step >= self.spec.steps or self.process_group.should_stop(step, self.should_stop()):
            return None
        batch = batch_at(
            self.table,
            step=step,
            seed=self.seed,
            batch_size=self.spec.batch_size,
            length=self.length,
        )
        self.tokens[step + 1] = batch.token_count
        return self.process_group.place_batch(batch.arrays())

    def load_next_eval_batch(self, train_ctx: Any) -> None:
        return None

    def on_train_step_end(self, train_ctx: Any, train_step: int, train_loss: float) -> None:
        """Record a step's metrics.

        Tunix calls this one step late, so that the host never waits for the device; the last call
        comes when the trainer closes.
        """
        now = time.perf_counter()
        row = StepMetrics(
            step=train_step,
            loss=float(train_loss),
            learning_rate=float(self.schedule(train_step - 1)),
            grad_norm=self.values.last["grad_norm"],
            tokens=self.tokens.pop(train_step),
            step_seconds=now - self.since,
        )
        self.since = now
        self.metrics.append(row)
        self.report(row)
        if train_step % self.checkpoint_every == 0 or train_step in (1, self.spec.steps):
            self.write_metrics()

    def write_metrics(self) -> None:
        if jax.process_index() == 0:
            write_metrics(self.resume_prefix, self.metrics)

    def on_train_start(self, train_ctx: Any) -> None:
        self.since = time.perf_counter()

    def on_train_end(self, train_ctx: Any) -> None:
        pass

    def on_train_step_start(self, train_ctx: Any) -> None:
        pass

    def on_eval_step_start(self, train_ctx: Any) -> None:
        pass

    def on_eval_step_end(self, train_ctx: Any, eval_loss: float) -> None:
        pass


def run_sft(
    model: Any,
    table: TokenTable,
    spec: TrainSpec,
    *,
    seed: int,
    resume_prefix: str,
    checkpoint_every_steps: int,
    report: Callable[[StepMetrics], None],
    should_stop: Callable[[], bool],
    process_group: ProcessGroup,
) -> Progress:
    """Train a model in place, from the last usable checkpoint if there is one.

    Args:
        model: the model with its initial weights, changed in place. When resuming, the checkpoint
            overwrites the weights.
        table: the encoded examples.
        spec: model, optimizer and batch shape.
        seed: seed of the batch stream.
        resume_prefix: prefix for checkpoints and metrics, on a local disk or an object store.
        checkpoint_every_steps: steps between checkpoints; the last step is saved too.
        report: called with the metrics of every step, one step late.
        should_stop: called before every step; if it returns true, training saves a checkpoint and
            stops.
        process_group: the processes and devices that train together; every process of the run
            makes the same call.

    Raises:
        SpecError: the batch size is not a multiple of the number of devices.
    """
    process_group.check_batch(spec.batch_size)
    process_group.replicate(model)
    checkpoints = Checkpoints(
        resume_prefix, every_steps=checkpoint_every_steps, process_group=process_group
    )
    metrics = read_metrics(resume_prefix)
    values = _LastValues()
    with process_group.active():
        trainer = _build_trainer(model, spec, values)
        resumed_from = checkpoints.resume(trainer, stored_steps=len(metrics))
        del metrics[resumed_from:]
        if resumed_from:
            log.info("resumed from the checkpoint of step %d", resumed_from)
        loop = _Loop(
            table,
            spec,
            seed,
            resume_prefix,
            checkpoint_every_steps,
            metrics,
            report,
            should_stop,
            values,
            process_group,
        )
        trainer.with_training_hooks(loop)
        trainer.with_data_hooks(loop)
        trainer.train(())
    loop.write_metrics()
    return Progress(
        metrics,
        resumed_from,
        finished=trainer.train_steps >= spec.steps,
        checkpoint_step=checkpoints.published_step,
    )


def _build_trainer(model: Any, spec: TrainSpec, values: _LastValues) -> Any:
    """Build Tunix's trainer, at step 0."""
    trainer = peft_trainer.PeftTrainer(
        model,
        build_optimizer(spec.optimizer, spec.steps),
        peft_trainer.TrainingConfig(eval_every_n_steps=NEVER),
        metrics_logger=values,
    )
    trainer.with_loss_fn(response_loss).with_gen_model_input_fn(model_inputs)
    return trainer
