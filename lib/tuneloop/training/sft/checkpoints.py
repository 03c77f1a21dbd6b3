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
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from tuneloop.errors import DataError, Transient, TuneloopError
from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint_files import (
    FILE_BYTES,
    Snapshot,
    read_state,
    take_snapshot,
    write_files,
)
from tuneloop.training.sft.checkpoint_manifest import (
    MANIFEST,
    CheckpointFile,
    CheckpointManifest,
    ProcessFiles,
    dump_manifest,
    parse_manifest,
)
from tuneloop.training.sft.distributed import ProcessGroup

log = logging.getLogger(__name__)

KEEP = 2
"""Newest checkpoints that are kept: if the last one is unusable, the one before it is used."""
POLL_SECONDS = 0.5
"""Seconds between looks for the files of the other processes."""
STALLED_SECONDS = 8.0
"""Seconds without a stored file after which a stopped training no longer waits for its upload."""


@dataclass
class _Upload:
    """One checkpoint on its way to the store."""

    step: int
    thread: threading.Thread | None = None
    own_files_done: threading.Event = field(default_factory=threading.Event)
    """This process's files are stored, or have failed."""
    all_files_done: threading.Event = field(default_factory=threading.Event)
    """The same holds for every process."""
    last_sign: float = field(default_factory=time.monotonic)
    """When the last file was stored."""
    is_published: bool = False
    """The manifest is stored; in processes other than the first: this process's files are."""
    error: Exception | None = None


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
        file_bytes: int = FILE_BYTES,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        """Prepare to save below a prefix; nothing is read or written yet.

        Args:
            resume_prefix: URL of the folder for the files of an unfinished training.
            every_steps: steps between checkpoints.
            process_group: the processes that train together.
            keep: how many of the newest checkpoints are kept, besides the protected one.
            file_bytes: largest size of a file's data.
            stalled_seconds: seconds without a stored file after which `close` gives up.
        """
        self._prefix = checkpoints_prefix(resume_prefix)
        self._every_steps, self._keep, self._group = every_steps, keep, process_group
        self._file_bytes, self._stalled_seconds = file_bytes, stalled_seconds
        self._attempt = ""
        self._stored: list[int] = []
        self._saved_step: int | None = None
        self._protected: int | None = None
        self._upload: _Upload | None = None
        self.published_step = 0
        """Step of the newest checkpoint that is complete in the store; 0 for none."""

    def resume(self, trainer: Any, stored_steps: int) -> int:
        """Restore a new trainer from the newest usable checkpoint and save its later ones.

        Args:
            trainer: Tunix's PeftTrainer, built without a checkpoint directory.
            stored_steps: number of steps whose metrics are stored. The checkpoint of a step is
                stored before its metrics are known, so a newer one would leave a gap; it is
                deleted.

        Returns:
            The step of the checkpoint; 0 if there is none.
        """
        step = self.restore(trainer.model, trainer.optimizer, stored_steps)
        accumulation = trainer.config.get_with_default("gradient_accumulation_steps", 1)
        trainer._train_steps, trainer._iter_steps = step, step * accumulation
        trainer.checkpoint_manager = self
        return step

    def restore(self, model: Any, optimizer: Any, stored_steps: int) -> int:
        """Restore model and optimizer in place from the newest usable checkpoint; see `resume`."""
        self._attempt = f"{self._group.share(secrets.randbits(31)):08x}"
        if jax.process_index() == 0:
            self._stored = self._clean(stored_steps)
        self.published_step = self._read_newest(model, optimizer)
        self._saved_step = self.published_step or None
        return self.published_step

    def load(self, step: int, model: Any, optimizer: Any) -> None:
        """Restore model and optimizer in place from the checkpoint of a step.

        Raises:
            DataError: there is no such checkpoint, or it is broken.
        """
        self.wait()
        self._group.meet("the checkpoint is stored")
        self._read(step, model, optimizer)

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

        Waits for the checkpoint before this one. Tunix calls it after every step.

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
        self.wait()
        snapshot = take_snapshot(trained_state(model, optimizer), self._file_bytes)
        self._saved_step = step
        upload = self._upload = _Upload(step)
        upload.thread = threading.Thread(
            target=self._run, args=(upload, snapshot), name=f"checkpoint-{step}", daemon=True
        )
        upload.thread.start()
        return True

    def protect(self, step: int) -> None:
        """Keep the checkpoint of this step, such as the best one, instead of the one before."""
        self._protected = step

    def wait(self, stalled_seconds: float | None = None) -> None:
        """Wait until the last saved checkpoint is stored.

        A transient failure is logged only: the checkpoint before stays, and the next one is tried.

        Args:
            stalled_seconds: seconds without a stored file after which to give up; None waits for
                as long as the storage retries.

        Raises:
            TuneloopError: the storage refuses for good.
        """
        upload, self._upload = self._upload, None
        if upload is None or upload.thread is None:
            return
        while not upload.own_files_done.wait(stalled_seconds):
            if stalled_seconds and time.monotonic() - upload.last_sign > stalled_seconds:
                break
        self._group.meet("each process has stored its files")
        upload.all_files_done.set()
        upload.thread.join(stalled_seconds)
        if upload.is_published:
            self.published_step = upload.step
            return
        error = upload.error or Transient("the storage does not answer")
        if not isinstance(error, Transient):
            raise error
        log.warning("the checkpoint of step %d is not stored: %s", upload.step, error)

    def close(self) -> None:
        """Wait for the last checkpoint (Tunix's hook)."""
        self.wait(self._stalled_seconds)

    def _run(self, upload: _Upload, snapshot: Snapshot) -> None:
        """Store one checkpoint; runs in a thread."""
        try:
            self._publish(upload, snapshot)
        except Exception as e:  # raised again, or logged, by the thread that trains
            upload.error = e
        finally:
            upload.own_files_done.set()

    def _publish(self, upload: _Upload, snapshot: Snapshot) -> None:
        def sign() -> None:
            upload.last_sign = time.monotonic()

        folder = self._folder(upload.step)
        own = write_files(snapshot, folder, self._attempt, sign)
        process_index = jax.process_index()
        if process_index > 0:
            files.write(self._list_url(upload.step, process_index), dump_manifest(own))
            upload.is_published = True
            return
        upload.own_files_done.set()
        manifest = CheckpointManifest(
            step=upload.step,
            arrays=snapshot.arrays,
            files=own.files + self._files_of_others(upload),
        )
        if not files.publish(paths.join(folder, MANIFEST), dump_manifest(manifest)):
            log.warning("%s: another process has stored this checkpoint; its files stay", folder)
        upload.is_published = True
        log.info("checkpoint of step %d stored", upload.step)
        self._stored.append(upload.step)
        self._prune()

    def _files_of_others(self, upload: _Upload) -> tuple[CheckpointFile, ...]:
        """Wait for the files of the other processes.

        Not by a barrier of JAX: it would be a computation on the devices in the middle of training.
        """
        found: list[CheckpointFile] = []
        for index in range(1, self._group.process_count):
            url = self._list_url(upload.step, index)
            while True:
                none_comes = upload.all_files_done.is_set()
                try:
                    found += ProcessFiles.model_validate_json(files.read(url)).files
                    break
                except FileNotFoundError as e:
                    if none_comes:
                        raise Transient(f"{url}: process {index} has not stored its files") from e
                upload.all_files_done.wait(POLL_SECONDS)
        return tuple(found)

    def _prune(self) -> None:
        """Delete checkpoints that are no longer kept; a failure is tried again after the next."""
        self._stored.sort()
        for step in self._stored[: -self._keep]:
            if step == self._protected:
                continue
            try:
                self._delete(step)
            except TuneloopError as e:  # too many checkpoints are no reason to stop training
                log.warning("the old checkpoint of step %d is not deleted: %s", step, e)
                return
            self._stored.remove(step)

    def _delete(self, step: int) -> None:
        # The manifest first, so that it never names files that are gone.
        files.delete_tree(paths.join(self._folder(step), MANIFEST))
        files.delete_tree(self._folder(step))

    def _clean(self, stored_steps: int) -> list[int]:
        """Delete unfinished checkpoints and those without metrics; returns the steps of the rest.

        Called before this attempt writes anything.
        """
        kept = []
        for name in files.list_folders(self._prefix):
            folder = paths.join(self._prefix, name)
            if not name.isdecimal() or not files.exists(paths.join(folder, MANIFEST)):
                log.info("%s: no manifest, so the checkpoint is unfinished; deleting it", folder)
                files.delete_tree(folder)
            elif int(name) > stored_steps:
                log.info("deleting the checkpoint of step %s: its metrics were not written", name)
                self._delete(int(name))
            else:
                kept.append(int(name))
        return sorted(kept)

    def _read_newest(self, model: Any, optimizer: Any) -> int:
        """Restore from the newest checkpoint that every process can read; returns its step."""
        while step := self._group.share(self._stored[-1] if self._stored else 0):
            try:
                self._read(step, model, optimizer)
                is_read = True
            except DataError as e:
                is_read = False
                log.warning("checkpoint of step %d is unusable, using an older one: %s", step, e)
            if self._group.agree(is_read):
                return step
            if jax.process_index() == 0:
                self._delete(step)
                self._stored.remove(step)
        return 0

    def _read(self, step: int, model: Any, optimizer: Any) -> None:
        folder = self._folder(step)
        url = paths.join(folder, MANIFEST)
        try:
            data = files.read(url)
        except FileNotFoundError as e:
            raise DataError(f"{url}: is missing, so there is no such checkpoint") from e
        state = read_state(parse_manifest(data, url), folder, trained_state(model, optimizer))
        nnx.update(model, state["model"])
        nnx.update(optimizer, state["optimizer"])

    def _folder(self, step: int) -> str:
        return paths.join(self._prefix, str(step))

    def _list_url(self, step: int, process_index: int) -> str:
        return paths.join(self._folder(step), self._attempt, f"{process_index:05d}.json")


def checkpoints_prefix(resume_prefix: str) -> str:
    """Return the URL of the folder that holds the checkpoints."""
    return paths.join(resume_prefix, "checkpoints")


def trained_state(model: Any, optimizer: Any) -> dict[str, Any]:
    """Return what training changes, as a pytree of arrays.

    With LoRA, the base weights are not part of it. The state of random generators is, because
    dropout would otherwise repeat itself after a restart.
    """
    has_lora = bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))
    trained = (
        nnx.state(model, nnx.Any(nnx.LoRAParam, nnx.RngState)) if has_lora else nnx.state(model)
    )
    return {"model": trained, "optimizer": nnx.state(optimizer, nnx.optimizer.OptState)}
