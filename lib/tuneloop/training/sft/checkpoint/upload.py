"""Store one checkpoint in the background, while training goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import jax

from tuneloop.errors import Transient
from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint.manifest import (
    MANIFEST,
    CheckpointFile,
    CheckpointManifest,
    ProcessFiles,
    dump_manifest,
)
from tuneloop.training.sft.checkpoint.write import Snapshot, write_files
from tuneloop.training.sft.distributed import ProcessGroup

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between looks for the files of the other processes."""


class Upload:
    """One checkpoint on its way to the store.

    Every process writes its own files. Process 0 waits for the lists of the others, then writes the
    manifest. It looks for the lists in the store: a barrier of JAX would be a computation on the
    devices in the middle of training.
    """

    def __init__(
        self,
        step: int,
        folder: str,
        attempt: str,
        group: ProcessGroup,
        *,
        check: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        """Prepare the upload of a step.

        Args:
            step: number of finished steps.
            folder: URL of the checkpoint's folder.
            attempt: name that this run of the group has for its files. A killed process may have
                left files of the same step.
            group: the processes that train together.
            check: called in the thread of process 0 before the manifest is stored; raises if the
                group must not write any more.
            done: called in the thread of process 0 after the manifest is stored.
        """
        self.step = step
        self._folder, self._attempt, self._group = folder, attempt, group
        self._check, self._done = check, done
        self._own_files_done, self._all_files_done = threading.Event(), threading.Event()
        self._last_sign = time.monotonic()
        self.error: Exception | None = None
        """Why the checkpoint is not stored; None if it is."""

    def start(self, snapshot: Snapshot) -> None:
        """Store a snapshot in a thread."""
        self._thread = threading.Thread(
            target=self._run, args=(snapshot,), name=f"checkpoint-{self.step}", daemon=True
        )
        self._thread.start()

    def wait(self, stalled_seconds: float | None) -> bool:
        """Wait until the checkpoint is stored or has failed, in every process.

        Every process of a group makes the same calls and gets the same answer.

        Args:
            stalled_seconds: seconds without a stored file after which to stop waiting; None waits
                for as long as the storage retries.

        Returns:
            Whether it has ended; otherwise the storage does not answer, and `wait` can be called
            again.
        """
        while not self._own_files_done.wait(self._seconds_left(stalled_seconds)):
            if self._seconds_left(stalled_seconds) == 0:
                break
        if not self._group.agree(self._own_files_done.is_set()):
            return False
        self._all_files_done.set()
        self._thread.join(self._seconds_left(stalled_seconds))
        return self._group.agree(not self._thread.is_alive())

    def _seconds_left(self, stalled_seconds: float | None) -> float | None:
        if stalled_seconds is None:
            return None
        return max(0.0, self._last_sign + stalled_seconds - time.monotonic())

    def _run(self, snapshot: Snapshot) -> None:
        try:
            self._store(snapshot)
        except Exception as e:  # the thread that trains decides what it means
            self.error = e
        finally:
            self._own_files_done.set()

    def _store(self, snapshot: Snapshot) -> None:
        own = write_files(snapshot, self._folder, self._attempt, self._sign)
        process_index = jax.process_index()
        if process_index > 0:
            files.write(self._list_url(process_index), dump_manifest(own))
            return
        self._own_files_done.set()
        manifest = CheckpointManifest(
            step=self.step, arrays=snapshot.arrays, files=own.files + self._files_of_others()
        )
        self._check()
        if not files.publish(paths.join(self._folder, MANIFEST), dump_manifest(manifest)):
            log.warning("%s: another process has stored this checkpoint first", self._folder)
        log.info("checkpoint of step %d stored", self.step)
        self._done()

    def _files_of_others(self) -> tuple[CheckpointFile, ...]:
        found: list[CheckpointFile] = []
        for index in range(1, self._group.process_count):
            url = self._list_url(index)
            while True:
                none_comes = self._all_files_done.is_set()
                try:
                    found += ProcessFiles.model_validate_json(files.read(url)).files
                    break
                except FileNotFoundError as e:
                    if none_comes:
                        raise Transient(f"{url}: process {index} has not stored its files") from e
                self._all_files_done.wait(POLL_SECONDS)
        return tuple(found)

    def _sign(self) -> None:
        self._last_sign = time.monotonic()

    def _list_url(self, process_index: int) -> str:
        return paths.join(self._folder, self._attempt, f"{process_index:05d}.json")
