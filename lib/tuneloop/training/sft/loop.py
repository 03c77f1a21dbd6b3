"""Supervised fine-tuning with Tunix's PeftTrainer, with the loss on the response only.

The result is a function of (weights, token tables, spec, seed); interruptions do not change it.
After one, a checkpoint restores optimizer state and weights, the batch stream continues at the
restored step, and a checkpoint without stored metrics is not used.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tuneloop.errors import DataError, SpecError, Transient
from tuneloop.training.data.batches import Rows, total_steps
from tuneloop.training.data.table import TokenTable
from tuneloop.training.sft.callbacks import Callbacks, SftOptions
from tuneloop.training.sft.checkpoint.claim import Claim
from tuneloop.training.sft.checkpoints import Checkpoints
from tuneloop.training.sft.earlier import EarlierRun
from tuneloop.training.sft.metrics import History, StepMetrics, metrics_url, read_history
from tuneloop.training.sft.profiler import StepProfiler
from tuneloop.training.sft.trainer import SftTrainer
from tuneloop.training.sft.validation import Validation
from tuneloop.training.step.mesh import sizes_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """The state of a training that has finished or was stopped."""

    history: History
    """Metrics of all steps so far, including those of earlier processes and runs."""
    resumed_from: int
    """Step of the checkpoint that this process resumed from; 0 if there was none."""
    finished: bool
    """Whether training is over, after its last step or early; if not, call `run_sft` again to
    continue."""
    checkpoint_step: int
    """Step of the newest stored checkpoint; 0 if there is none."""
    total_steps: int
    """Number of steps of the whole training; fewer are done if it stopped early."""
    kept_step: int
    """Number of steps of the weights that the model now has; fewer than all if those of an earlier
    step are kept, which had the lowest validation loss."""

    @property
    def metrics(self) -> list[StepMetrics]:
        """Metrics of the steps so far."""
        return self.history.steps

    @property
    def stopped_early(self) -> bool:
        """Whether training ended before its last step, because validation did not improve."""
        return self.finished and len(self.history.steps) < self.total_steps


def run_sft(
    model: Any,
    table: TokenTable,
    options: SftOptions,
    *,
    validation: TokenTable | None = None,
    earlier: EarlierRun | None = None,
) -> Progress:
    """Train a model in place, from the last usable checkpoint if there is one.

    Args:
        model: the model with its initial weights, changed in place. When resuming, the checkpoint
            overwrites the weights.
        table: the encoded examples.
        options: everything else.
        validation: the encoded validation examples; needed if the spec asks for validation.
        earlier: the training to continue; its checkpoint is used until this one has its own.

    Raises:
        SpecError: the batch does not divide evenly among the devices, validation has no examples,
            or the earlier training has no patience left.
        DataError: a loss is infinite or not a number.
    """
    spec, group = options.spec, options.process_group
    sizes_of(group.mesh).check_rows(spec.batch_size, spec.accumulation_steps)
    validator = _validator(validation, options)
    group.place(model)
    rows = Rows(table, spec, batch_size=spec.batch_size)
    lengths = ", ".join(map(str, rows.padded_lengths))
    log.info("%d examples in %d rows, padded to %s tokens", len(table), len(rows), lengths)
    steps = total_steps(spec, len(rows))
    claim = _claim(options.resume_prefix)
    checkpoints = _checkpoints(options, options.resume_prefix, claim)
    with group.active():
        trainer = SftTrainer(model, spec, steps=steps, seed=options.seed, mesh=group.mesh)
        history = read_history(options.resume_prefix)
        resumed_from = checkpoints.resume(trainer, stored_steps=len(history.steps))
        history.cut(resumed_from)
        if not resumed_from and earlier is not None:
            history = _continue(earlier, trainer, options)
            _check_goes_on(validator, history, earlier, steps)
        if trainer.train_steps:
            log.info("continuing after step %d", trainer.train_steps)
        callbacks = Callbacks(
            rows,
            validator,
            options,
            total_steps=steps,
            history=history,
            checkpoints=checkpoints,
            check=claim,
        )
        with _profiling(trainer, callbacks, options):
            _train(trainer, callbacks, checkpoints)
        kept_step = trainer.train_steps
        if callbacks.is_finished and callbacks.best_step:
            kept_step = callbacks.best_step
        kept = _steps_to_publish(trainer.train_steps, options, earlier)
        if callbacks.is_finished and kept:
            checkpoints.save_now(trainer.train_steps, trainer.model, trainer.optimizer)
            for step in kept:
                _restore(step, trainer, checkpoints, options, None)
                options.publish_step(step, trainer.model)
        if kept_step < trainer.train_steps or (callbacks.is_finished and kept):
            _restore(kept_step, trainer, checkpoints, options, earlier)
    return Progress(
        history,
        resumed_from,
        finished=callbacks.is_finished,
        checkpoint_step=checkpoints.published_step,
        total_steps=steps,
        kept_step=kept_step,
    )


def _train(trainer: SftTrainer, callbacks: Callbacks, checkpoints: Checkpoints) -> None:
    """Run Tunix's loop until the end or a request to stop; the metrics are stored in any case."""
    if callbacks.best_step:
        checkpoints.protect(callbacks.best_step)
    trainer.with_training_hooks(callbacks)
    trainer.with_data_hooks(callbacks)
    try:
        # Tunix computes the perplexity of every loss.
        with np.errstate(over="ignore"), callbacks.clock.listening():
            trainer.train(())
    except DataError:
        checkpoints.close()  # the checkpoint before the error may still be on its way
        raise
    finally:
        callbacks.close()


@contextlib.contextmanager
def _profiling(trainer: SftTrainer, callbacks: Callbacks, options: SftOptions) -> Iterator[None]:
    """Let the steps be traced that are asked for; an interrupted trace is stored as well."""
    if options.profiler is None:
        yield
        return
    profiler = StepProfiler(
        options.profiler,
        options.profile_url,
        wait=trainer.newest_values,
        pause=callbacks.clock.pause,
    )
    trainer.profile_with(profiler)
    with contextlib.closing(profiler):
        yield


def _steps_to_publish(finished: int, options: SftOptions, earlier: EarlierRun | None) -> list[int]:
    """Return the steps of this training that are published, besides its end.

    Raises:
        SpecError: a step was made by the earlier training, whose checkpoints may be gone.
    """
    kept = [step for step in options.spec.keep_checkpoints if step < finished]
    if kept and earlier is not None and kept[0] <= earlier.step:
        raise SpecError(
            f"train.keep_checkpoints: step {kept[0]} is one of the {earlier.step} steps of the run"
            " to continue, expected later ones; remove it"
        )
    return kept


def _restore(
    step: int,
    trainer: SftTrainer,
    checkpoints: Checkpoints,
    options: SftOptions,
    earlier: EarlierRun | None,
) -> None:
    """Restore the weights of a step, such as the best one.

    Args:
        step: the step.
        trainer: trainer of the model.
        checkpoints: checkpoints of this training.
        options: everything else.
        earlier: the training that was continued, of which the step may be.
    """
    log.info("restoring the weights of step %d", step)
    is_own = True
    while earlier is not None and step <= earlier.step:
        checkpoints, is_own = _checkpoints(options, earlier.resume_prefix), False
        earlier = earlier.earlier
    if not is_own:
        checkpoints.load(step, trainer.model, trainer.optimizer)
    elif not checkpoints.load_or_drop(step, trainer.model, trainer.optimizer):
        raise Transient(
            f"{options.resume_prefix}: the checkpoint of step {step}, which has the lowest"
            " validation loss or is kept, is damaged or missing; its checkpoints were deleted, run"
            " again to train from the start"
        )


def _validator(table: TokenTable | None, options: SftOptions) -> Validation | None:
    if options.spec.validation is None:
        return None
    if table is None:
        raise SpecError(
            "train.validation: the export has no validation examples, expected at least one; raise"
            " export.validation_fraction, or remove train.validation"
        )
    return Validation(table, options.spec, options.spec.validation, options.process_group)


def _claim(resume_prefix: str) -> Callable[[], None]:
    """Claim the prefix for this attempt; returns the check that no later attempt has done so.

    Only process 0 makes files visible to others, so it alone claims and checks.
    """
    if jax.process_index() > 0:
        return lambda: None
    return Claim.take(resume_prefix, secrets.token_hex(8)).check


def _checkpoints(
    options: SftOptions, resume_prefix: str, check: Callable[[], None] = lambda: None
) -> Checkpoints:
    return Checkpoints(
        resume_prefix,
        every_steps=options.checkpoint_every_steps,
        kept_steps=options.spec.keep_checkpoints,
        process_group=options.process_group,
        check=check,
    )


def _continue(earlier: EarlierRun, trainer: SftTrainer, options: SftOptions) -> History:
    """Restore the end of an earlier training; returns its history."""
    source = _checkpoints(options, earlier.resume_prefix)
    source.load(earlier.step, trainer.model, trainer.optimizer)
    trainer.start_at(earlier.step)
    history = read_history(earlier.resume_prefix)
    if len(history.steps) < earlier.step:
        raise DataError(
            f"{metrics_url(earlier.resume_prefix)}: holds {len(history.steps)} steps, expected the"
            f" {earlier.step} of the run to continue; restore it, or start with"
            " train.model: {kind: pretrained, run: ...}"
        )
    history.cut(earlier.step)
    return history


def _check_goes_on(
    validator: Validation | None, history: History, earlier: EarlierRun, steps: int
) -> None:
    """Raise SpecError if the earlier training leaves nothing to do."""
    if steps <= earlier.step:
        raise SpecError(
            f"train: {steps} steps are asked for, expected more than the {earlier.step} steps of"
            " the run to continue, which are counted too; raise epochs or steps"
        )
    if validator is not None and not validator.has_patience(history):
        raise SpecError(
            f"train.validation.patience: the run to continue stopped at step {earlier.step} after"
            f" {history.validations_since_best()} validations without improvement; raise the"
            " patience, or set it to null"
        )
