"""Checkpoints of a training that has not finished, on any store that `storage.files` can reach.

    <resume prefix>/checkpoints/<step>/manifest.json                          written last
                                      /<attempt>/00000-00000.safetensors      process, number
                                      /<attempt>/00001.json                   files of process 1

A checkpoint is copied to host memory while training waits, and stored by a thread while training
goes on. Restoring gives the same bits. Tunix's own manager (Orbax) is not used: see
docs/explanation/adr/0007-checkpoints.md.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import nnx

from tuneloop.errors import DataError, Transient
from tuneloop.storage import paths
from tuneloop.training.sft.checkpoint.arrays import layout_of
from tuneloop.training.sft.checkpoint.folder import CheckpointFolder
from tuneloop.training.sft.checkpoint.upload import Upload
from tuneloop.training.sft.checkpoint.write import FILE_BYTES, take_snapshot
from tuneloop.training.sft.distributed import ProcessGroup

log = logging.getLogger(__name__)

KEEP = 2
"""Newest checkpoints that are kept: if the last one is unusable, the one before it is used."""
STALLED_SECONDS = 6.0
"""Seconds without a stored file after which training no longer waits for an upload.

A file has at most 32 MiB, so a store that takes 6 MB/s is never considered away.
"""


class Checkpoints:
    """Saves and restores model and optimizer; takes the place of Tunix's CheckpointManager.

    Every process of a group makes the same calls in the same order.
    """

    def __init__(
        self,
        resume_prefix: str,
        *,
        every_steps: int,
        process_group: ProcessGroup,
        keep: int = KEEP,
        kept_steps: Collection[int] = (),
        file_bytes: int = FILE_BYTES,
        stalled_seconds: float = STALLED_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare to save below a prefix; nothing is read or written yet.

        Args:
            resume_prefix: URL of the folder for the files of an unfinished training.
            every_steps: steps between checkpoints.
            process_group: the processes that train together.
            keep: how many of the newest checkpoints are kept, besides the protected ones.
            kept_steps: steps of checkpoints that are kept until training ends.
            file_bytes: largest size of a file's data.
            stalled_seconds: seconds without a stored file after which a store counts as away.
            check: called before a checkpoint becomes visible; raises if a later attempt has
                started.
        """
        self._folder = CheckpointFolder(checkpoints_prefix(resume_prefix))
        self._every_steps, self._keep, self._group = every_steps, keep, process_group
        self._file_bytes, self._stalled_seconds = file_bytes, stalled_seconds
        self._check = check
        self._kept_steps = frozenset(kept_steps)
        self._attempt = ""
        self._saved_step: int | None = None
        self._protected: int | None = None
        self._upload: Upload | None = None
        self.published_step = 0
        """Step of the newest checkpoint that is complete in the store; 0 for none."""

    def resume(self, trainer: Any, stored_steps: int) -> int:
        """Restore a new trainer from the newest usable checkpoint and save its later ones.

        Args:
            trainer: a new `SftTrainer`.
            stored_steps: number of steps whose metrics are stored; newer checkpoints are deleted.

        Returns:
            The step of the checkpoint; 0 if there is none.
        """
        step = self.restore(trainer.model, trainer.optimizer, stored_steps)
        trainer.start_at(step)
        trainer.checkpoint_manager = self
        return step

    def restore(self, model: Any, optimizer: Any, stored_steps: int) -> int:
        """Restore model and optimizer in place from the newest usable checkpoint; see `resume`.

        The old optimizer state is released first, so that devices need not hold both.
        """
        self._attempt = f"{self._group.share(secrets.randbits(31)):08x}"
        if jax.process_index() == 0:
            self._folder.clean(stored_steps)
        layout = layout_of(trained_state(model, optimizer))
        step, unusable = self._newest(), False
        while step:
            state = self._read_or_none(step, layout, optimizer)
            if self._group.agree(state is not None):
                _update(model, optimizer, state)
                break
            unusable = True
            if jax.process_index() == 0:
                self._folder.drop(step)
            step = self._newest()
        if unusable and not step:
            log.warning("no usable checkpoint is left, so training starts again from step 0")
            fresh = nnx.Optimizer(model, optimizer.tx, wrt=optimizer.wrt)
            nnx.update(optimizer, nnx.state(fresh, nnx.optimizer.OptState))
        self.published_step, self._saved_step = step, step or None
        return step

    def load(self, step: int, model: Any, optimizer: Any = None) -> None:
        """Restore a model in place from the checkpoint of a step, such as the best one.

        Args:
            step: step of a checkpoint that is still kept.
            model: the model.
            optimizer: its optimizer; None leaves it as it is.

        Raises:
            DataError: there is no such checkpoint, or it is broken.
        """
        self._end_upload(stalled_seconds=None)
        self._group.meet("the checkpoint is stored")
        layout = layout_of(trained_state(model, optimizer))
        _update(model, optimizer, self._folder.read(step, layout))

    def load_or_drop(self, step: int, model: Any, optimizer: Any) -> bool:
        """Restore a step as `load` does; if a process cannot, delete all checkpoints.

        Returns:
            Whether every process has restored it.
        """
        self._end_upload(stalled_seconds=None)
        self._group.meet("the checkpoint is stored")
        state = self._read_or_none(step, layout_of(trained_state(model, optimizer)), None)
        if not self._group.agree(state is not None):
            if jax.process_index() == 0:
                self._folder.drop_all()
            return False
        _update(model, optimizer, state)
        return True

    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint that was restored or saved (Tunix's hook)."""
        return self._saved_step

    def save(
        self,
        step: int,
        model: Any,
        optimizer: Any,
        save_only_lora_params: bool = False,
        force: bool = False,
        custom_metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Copy the state to host memory and store it in the background (Tunix's hook).

        Waits for the checkpoint before this one, but not for a store that does not answer: then
        this step is not saved. Tunix calls it after every step.

        Args:
            step: number of finished steps.
            model: the model.
            optimizer: its optimizer.
            save_only_lora_params: not used; a model with LoRA parameters is recognised.
            force: save also between the regular steps.
            custom_metadata: not used.

        Returns:
            Whether this step is saved now.
        """
        if step == self._saved_step or not (force or step % self._every_steps == 0):
            return False
        if not self._end_upload(self._stalled_seconds):
            log.warning("step %d is not saved: the storage does not answer", step)
            return False
        snapshot = take_snapshot(trained_state(model, optimizer), self._file_bytes)
        self._saved_step = step

        def done() -> None:
            self._folder.add(step)
            self._folder.prune(self._keep, {*self._kept_steps, self._protected})

        self._upload = Upload(
            step,
            self._folder.url(step),
            self._attempt,
            self._group,
            check=self._check,
            done=done,
        )
        self._upload.start(snapshot)
        return True

    def save_best(self, step: int, model: Any, optimizer: Any) -> None:
        """Save this step unless it is saved already, and keep it in place of the one before.

        Unlike other checkpoints, this one must not be lost: training waits for a store that does
        not answer, and ends as transient if it cannot store it.
        """
        if step != self._saved_step:
            self._end_upload(stalled_seconds=None)
            self.save(step, model, optimizer, force=True)
        self.protect(step)

    def save_now(self, step: int, model: Any, optimizer: Any) -> None:
        """Save this step unless it is saved already, and keep it until the training ends.

        Training waits for the checkpoint before it, and ends as transient if this one is lost.
        """
        self._kept_steps |= {step}
        if step != self._saved_step:
            self._end_upload(stalled_seconds=None)
            self.save(step, model, optimizer, force=True)

    def protect(self, step: int) -> None:
        """Keep the checkpoint of this step, in place of the one protected before."""
        self._protected = step

    def close(self) -> None:
        """Wait for the last checkpoint, but not for a store that does not answer (Tunix's hook).

        Raises:
            TuneloopError: the storage refuses for good.
        """
        if not self._end_upload(self._stalled_seconds):
            log.warning("the last checkpoint is not stored: the storage does not answer")

    def _end_upload(self, stalled_seconds: float | None) -> bool:
        """Wait until no checkpoint is on its way; returns false if the storage does not answer.

        A transient failure is logged only: the checkpoint before stays, and the next one is tried.
        """
        upload = self._upload
        if upload is None:
            return True
        if not upload.wait(stalled_seconds):
            return False
        self._upload = None
        if upload.error is None:
            self.published_step = upload.step
        elif isinstance(upload.error, Transient) and upload.step not in (
            self._protected,
            *self._kept_steps,
        ):
            log.warning("the checkpoint of step %d is not stored: %s", upload.step, upload.error)
        else:
            raise upload.error
        return True

    def _newest(self) -> int:
        """Return the step of the newest stored checkpoint, as process 0 sees it; 0 for none."""
        return self._group.share(self._folder.steps[-1] if self._folder.steps else 0)

    def _read_or_none(self, step: int, layout: Any, optimizer: Any) -> Any:
        """Read a checkpoint; a broken one is logged, and None is returned."""
        try:
            if optimizer is None:
                return self._folder.read(step, layout)
            return self._folder.read(step, layout, lambda: _release(optimizer))
        except DataError as e:
            log.warning("checkpoint of step %d is unusable, using an older one: %s", step, e)
            return None


def checkpoints_prefix(resume_prefix: str) -> str:
    """Return the URL of the folder that holds the checkpoints."""
    return paths.join(resume_prefix, "checkpoints")


def trained_state(model: Any, optimizer: Any = None) -> dict[str, Any]:
    """Return what training changes, as a pytree of arrays.

    With LoRA, the base weights are not part of it. The state of random generators is, because
    dropout would otherwise repeat itself after a restart.
    """
    has_lora = bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))
    wanted = (nnx.LoRAParam, nnx.RngState) if has_lora else (...,)
    state = {"model": nnx.state(model, nnx.Any(*wanted))}
    if optimizer is not None:
        state["optimizer"] = nnx.state(optimizer, nnx.optimizer.OptState)
    return state


def _update(model: Any, optimizer: Any, state: dict[str, Any]) -> None:
    nnx.update(model, state["model"])
    if optimizer is not None:
        nnx.update(optimizer, state["optimizer"])


def _release(optimizer: Any) -> None:
    """Drop the arrays of an optimizer, whose state is about to be read."""
    state = nnx.state(optimizer, nnx.optimizer.OptState)
    nnx.update(optimizer, jax.eval_shape(lambda: state))
