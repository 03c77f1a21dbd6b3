"""What happens between two steps of the trainer: batches, metrics, validation, and the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from tunix.sft import hooks

from tuneloop.errors import DataError
from tuneloop.specs.training.profiler import ProfilerSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.batches import Batch, Rows
from tuneloop.training.sft.background import BackgroundFile
from tuneloop.training.sft.checkpoints import STALLED_SECONDS, Checkpoints
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.sft.metrics import (
    History,
    StepMetrics,
    dump_history,
    is_finite,
    memory_bytes,
    metrics_url,
)
from tuneloop.training.sft.step_clock import StepClock
from tuneloop.training.sft.utilization import Utilization
from tuneloop.training.sft.validation import Validation
from tuneloop.training.step.agreement import Agreement
from tuneloop.training.step.optimizers import learning_rates

log = logging.getLogger(__name__)

IDS_SHOWN = 16
"""Example ids in the error message about a batch; the log has all of them."""


@dataclass(frozen=True)
class SftOptions:
    """How `run_sft` trains, besides the data."""

    spec: TrainSpec
    """Optimizer, batch shape and validation."""
    seed: int
    """Seed of the batch stream and of dropout."""
    resume_prefix: str
    """URL of the prefix for checkpoints and metrics, on a local disk or an object store."""
    checkpoint_every_steps: int
    """Steps between checkpoints; the last step, and a best one that is kept, are saved too."""
    process_group: ProcessGroup
    """Processes and devices that train together; every process of the run makes the same call."""
    report: Callable[[StepMetrics, int], None] = lambda row, total_steps: None
    """Called with the metrics of every step and the number of all steps, one step late."""
    report_validation: Callable[[int, float], None] = lambda step, loss: None
    """Called with the number of finished steps and the validation loss after them."""
    should_stop: Callable[[], bool] = lambda: False
    """Called before every step and every batch of validation; if it returns true, training saves a
    checkpoint and stops."""
    publish_step: Callable[[int, Any], None] = lambda step, model: None
    """Called after the last step with each step of `keep_checkpoints` and the model with its
    weights, which it may change."""
    utilization: Utilization | None = None
    """Computes the MFU of every step; None leaves it out."""
    profiler: ProfilerSpec | None = None
    """Steps that the profiler traces; None traces nothing."""
    profile_url: str = ""
    """URL of TensorBoard's log directory for the trace."""


class Callbacks(hooks.TrainingHooks, hooks.DataHooks):  # type: ignore[misc]  # tunix is untyped
    """Trainer hooks that supply batches by step number, validate, and collect metrics.

    With an iterator instead of data hooks, Tunix would read and discard every batch before the
    resumed step, and one batch too many at the end.
    """

    def __init__(
        self,
        rows: Rows,
        validation: Validation | None,
        options: SftOptions,
        *,
        total_steps: int,
        history: History,
        checkpoints: Checkpoints,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare for a training whose earlier steps are in the history.

        Args:
            rows: the rows of the batches.
            validation: validation; None if there is none.
            options: everything else.
            total_steps: number of steps of the whole training.
            history: metrics of the steps so far.
            checkpoints: saves the state.
            check: called before metrics are stored; raises if a later attempt has started.
        """
        self._rows, self._validation, self._options = rows, validation, options
        self._total_steps, self._history = total_steps, history
        self._checkpoints = checkpoints
        self._learning_rates = learning_rates(options.spec.optimizer, total_steps)
        self._agreement = Agreement(options.process_group.mesh)
        self._batches: dict[int, Batch] = {}
        self._file = BackgroundFile(metrics_url(options.resume_prefix), check)
        self._written = b""
        self._polls = 0
        self._is_ending = False
        self.clock = StepClock()
        self.is_finished = False
        """Whether the last step is done, or training has stopped early; false after a request to
        stop."""

    @property
    def best_step(self) -> int | None:
        """The step whose weights are kept so far; None if those of the last step will be."""
        keeps_best = self._validation is not None and self._validation.options.keep == "best"
        return self._history.best_step() if keeps_best else None

    def load_next_train_batch(self, trainer: Any) -> dict[str, Any] | None:
        """Return the next batch; None ends the training (Tunix's hook)."""
        batch = self._next_batch_or_end(trainer)
        self._is_ending = batch is None
        if batch is None:
            trainer.stop_profile()  # otherwise it would have one more step, an empty one
        return batch

    def _next_batch_or_end(self, trainer: Any) -> dict[str, Any] | None:
        step = trainer.train_steps
        self._agreement.start(step, trainer.newest, trainer.model, self._batches.get(step))
        if self._checkpoints.latest_step() == step:
            # Tunix reports the step later. Killed in between, the checkpoint would be of no use.
            self._record_newest(trainer, step)
        is_last = step >= self._total_steps
        if step in self._options.spec.keep_checkpoints and not is_last:
            self._record_newest(trainer, step)
            self._checkpoints.save_now(step, trainer.model, trainer.optimizer)
            self._write_metrics()
        if self._validation is not None:
            if not self._validate(trainer, step, is_last=is_last):
                return None
            is_last = is_last or not self._validation.has_patience(self._history)
        if is_last:
            self.is_finished = True
            return None
        return None if self._should_stop() else self._next_batch(step)

    def _next_batch(self, step: int) -> dict[str, Any]:
        # The device computes the previous step meanwhile.
        with self.clock.waiting_for_batch(step + 1):
            batch = self._rows.batch_at(step, seed=self._options.seed)
            self._batches[step + 1] = batch
            arrays = batch.arrays(self._options.spec.accumulation_steps)
            return self._options.process_group.place_batch(arrays, row_axis=1)

    def _should_stop(self) -> bool:
        # Processes that train together agree on a call: all of them make the same calls.
        self._polls += 1
        group = self._options.process_group
        return group.should_stop(self._polls, self._options.should_stop())

    def _validate(self, trainer: Any, step: int, *, is_last: bool) -> bool:
        """Validate if it is due; returns false if training was asked to stop meanwhile."""
        validation, history = self._validation, self._history
        if validation is None or not validation.is_due(step, history, is_last=is_last):
            return True
        # The step may still be running. Its time does not count as time of validation, and its own
        # error is better than one about validation.
        self._record_newest(trainer, step)
        with self.clock.pause():
            loss = validation.measure(trainer, self._should_stop)
        if loss is None:
            return False
        if not is_finite(loss):
            found = f"the validation loss after step {step} is {loss}"
            raise not_finite(found, self._batches.get(step))
        history.add_validation(step, loss)
        log.info("validation loss after step %d: %.4f", step, loss)
        self._options.report_validation(step, loss)
        if self.best_step == step:
            self._checkpoints.save_best(step, trainer.model, trainer.optimizer)
        if self._checkpoints.latest_step() == step:
            self._write_metrics()
        return True

    def on_train_step_end(self, trainer: Any, train_step: int, train_loss: float) -> None:
        """Record a step's metrics.

        Tunix calls this one step late, so that the host never waits for the device; the last call
        comes when the trainer closes.
        """
        self._record(train_step, float(train_loss), trainer.values.last["grad_norm"])

    def _record_newest(self, trainer: Any, step: int) -> None:
        """Record the newest step at once; waits for its end."""
        newest = trainer.newest_values()
        if newest is not None:
            self._record(step, *newest)

    def _record(self, step: int, loss: float, grad_norm: float) -> None:
        """Add a step to the history, unless it is there.

        Raises:
            DataError: the loss or the gradient is infinite or not a number, or it or what led to it
                differs between processes or devices.
        """
        if step <= len(self._history.steps):
            return
        self._agreement.check(step)
        times = self.clock.lap()
        batch = self._batches[step]
        if not is_finite(loss, grad_norm):
            found = f"the loss of step {step} is {loss} and its gradient norm {grad_norm}"
            raise not_finite(found, batch)
        host_memory, device_memory = memory_bytes()
        utilization = self._options.utilization
        row = StepMetrics(
            step=step,
            loss=loss,
            learning_rate=float(self._learning_rates[step - 1]),
            grad_norm=grad_norm,
            tokens=batch.token_count,
            padding_share=batch.padding_share,
            step_seconds=times.step,
            tokens_per_second=batch.token_count / times.step,
            host_memory_bytes=host_memory,
            device_memory_bytes=device_memory,
            data_wait_seconds=self.clock.data_wait(step),
            compile_seconds=times.compiling,
            mfu=None if utilization is None else utilization.of_step(batch, times.step),
        )
        self._options.report(self._history.add(row), self._total_steps)
        self._batches.pop(step - 1, None)
        if step == 1 or self._is_ending or self._checkpoints.latest_step() == step:
            self._write_metrics()

    def _write_metrics(self) -> None:
        """Store the history; a checkpoint is used only if the metrics of its step are stored."""
        if jax.process_index() == 0:
            data = dump_history(self._history)
            if data != self._written:
                self._written = data
                self._file.write(data)

    def close(self) -> None:
        """Store the history, and wait until it is stored or the storage does not answer."""
        self._write_metrics()
        self._file.close(STALLED_SECONDS)

    def on_train_start(self, trainer: Any) -> None:
        """Start the clock of the first step."""
        self.clock.start()

    def load_next_eval_batch(self, trainer: Any) -> None:
        """Return no batch: Tunix's own evaluation is not used."""

    def on_train_end(self, trainer: Any) -> None:
        """Do nothing."""

    def on_train_step_start(self, trainer: Any) -> None:
        """Do nothing."""

    def on_eval_step_start(self, trainer: Any) -> None:
        """Do nothing."""

    def on_eval_step_end(self, trainer: Any, eval_loss: float) -> None:
        """Do nothing."""


def not_finite(values: str, batch: Batch | None) -> DataError:
    """Build the error about a loss or a gradient that is infinite or not a number.

    Args:
        values: what was found and where, such as `the loss of step 7 is nan`.
        batch: the batch of the step; None if this process has not computed a step yet.
    """
    ids = batch.example_ids if batch else ()
    log.error("%s; the examples of the batch: %s", values, ", ".join(ids))
    shown = ", ".join(ids[:IDS_SHOWN]) or "none yet"
    shown += f" and {len(ids) - IDS_SHOWN} more (see the log)" if len(ids) > IDS_SHOWN else ""
    return DataError(
        f"training: {values}, expected finite numbers; lower train.optimizer.learning_rate or"
        f" max_grad_norm, or look at the examples of the batch: {shown}"
    )
