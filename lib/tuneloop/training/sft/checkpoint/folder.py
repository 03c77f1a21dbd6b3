"""The folder of a training's checkpoints: which ones are complete, and which are deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from tuneloop.errors import DataError, TuneloopError
from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint.manifest import MANIFEST, parse_manifest
from tuneloop.training.sft.checkpoint.read import check_arrays, read_state

log = logging.getLogger(__name__)


class CheckpointFolder:
    """All checkpoints of one training. Only process 0 of a group deletes any."""

    def __init__(self, url: str) -> None:
        """Know a folder; nothing is read yet."""
        self._url = url
        self.steps: list[int] = []
        """Steps of the complete checkpoints, sorted; filled by `clean`."""

    def url(self, step: int) -> str:
        """Return the URL of the folder of one checkpoint."""
        return paths.join(self._url, str(step))

    def clean(self, stored_steps: int) -> None:
        """Delete what cannot be used; called before this process writes anything.

        Args:
            stored_steps: number of steps whose metrics are stored. The checkpoint of a step is
                stored before its metrics are known, so a newer one would leave a gap.
        """
        self.steps = []
        for name in files.list_folders(self._url):
            folder = paths.join(self._url, name)
            if not name.isdecimal() or not files.exists(paths.join(folder, MANIFEST)):
                log.info("%s: no manifest, so the checkpoint is unfinished; deleting it", folder)
                files.delete_tree(folder)
            elif int(name) > stored_steps:
                log.info("deleting the checkpoint of step %s: its metrics were not written", name)
                self._delete(int(name))
            else:
                self.steps.append(int(name))
        self.steps.sort()

    def add(self, step: int) -> None:
        """Note that the checkpoint of a step is complete."""
        self.steps = sorted({*self.steps, step})

    def drop(self, step: int) -> None:
        """Delete a checkpoint."""
        self._delete(step)
        self.steps.remove(step)

    def drop_all(self) -> None:
        """Delete all checkpoints."""
        for step in list(self.steps):
            self.drop(step)

    def prune(self, keep: int, protected: Collection[int | None]) -> None:
        """Delete all but the newest and the protected ones; a failure is tried again next time."""
        for step in self.steps[:-keep]:
            if step in protected:
                continue
            try:
                self.drop(step)
            except TuneloopError as e:  # too many checkpoints are no reason to stop training
                log.warning("the old checkpoint of step %d is not deleted: %s", step, e)

    def read(self, step: int, layout: Any, checked: Callable[[], None] = lambda: None) -> Any:
        """Read a state from the checkpoint of a step.

        Args:
            step: the step.
            layout: layouts of the arrays of the state.
            checked: called when the arrays are known to fit, before any is read.

        Raises:
            DataError: there is no such checkpoint, or it is broken or of another model.
        """
        folder = self.url(step)
        url = paths.join(folder, MANIFEST)
        try:
            data = files.read(url)
        except FileNotFoundError as e:
            raise DataError(f"{url}: is missing, so there is no such checkpoint") from e
        manifest = parse_manifest(data, url)
        if manifest.step != step:
            raise DataError(
                f"{url}: holds step {manifest.step}, expected step {step} as its folder; delete it"
            )
        check_arrays(manifest, layout, folder)
        checked()
        return read_state(manifest, folder, layout)

    def _delete(self, step: int) -> None:
        # The manifest first, so that it never names files that are gone.
        files.delete_tree(paths.join(self.url(step), MANIFEST))
        files.delete_tree(self.url(step))
