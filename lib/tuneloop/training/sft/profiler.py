"""A JAX profiler trace of a few training steps, stored for TensorBoard, XProf and Perfetto."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from tuneloop.errors import TuneloopError
from tuneloop.specs.training.profiler import ProfilerSpec
from tuneloop.storage import files, paths

log = logging.getLogger(__name__)

FOLDER = "plugins/profile"
"""Folder below the log directory in which TensorBoard looks for traces."""


class StepProfiler:
    """Traces the steps of a spec, in the place of Tunix's own profiler.

    Tunix's own profiler counts from the step at which a process starts, does not wait for the
    device, and writes to local folders alone. The trainer calls `maybe_activate` before a step and
    `maybe_deactivate` after it.
    """

    def __init__(
        self,
        spec: ProfilerSpec,
        url: str,
        *,
        wait: Callable[[], object],
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Trace nothing yet.

        Args:
            spec: the steps.
            url: log directory of TensorBoard, at any place that fsspec opens.
            wait: waits until the devices have finished every step so far.
            pause: excludes a block from the time of the steps.
        """
        self._spec, self._url, self._wait, self._pause = spec, url, wait, pause
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._first = self._last = 0
        self._is_tracing = False

    def maybe_activate(self, step: int) -> None:
        """Start the trace before the first of its steps that this process computes.

        Args:
            step: number of the step that comes next, from 1.
        """
        is_traced = self._spec.first_step <= step <= self._spec.last_step
        if is_traced and self._folder is None and jax.process_index() == 0:
            self._wait()  # otherwise the trace would begin with the end of the step before
            with self._pause():
                self._start(step)

    def maybe_deactivate(self, next_step: int) -> None:
        """End the trace after its last step.

        Args:
            next_step: number of the step that comes next.
        """
        self._last = next_step - 1
        if next_step > self._spec.last_step:
            self.close()

    def stop(self) -> None:
        """End the trace if there is one, also in the middle of its steps."""
        if self._is_tracing:
            self._wait()
            self._is_tracing = False
            with self._pause():
                jax.profiler.stop_trace()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the trace, and store it."""
        self.stop()
        if self._folder is not None:
            with self._pause(), self._folder as folder:
                self._folder = None
                self._store(Path(folder))

    def _start(self, step: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tuneloop-profile-")
        self._first, self._last = step, step - 1
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow down the steps that it measures
        jax.profiler.start_trace(self._folder.name, profiler_options=options)
        self._is_tracing = True

    def _store(self, folder: Path) -> None:
        """Write the files of a trace; a failure is logged, because training does not need them."""
        if self._last < self._first:
            return  # training ended before the first of them
        target = paths.join(self._url, FOLDER, f"steps-{self._first:05d}-{self._last:05d}")
        try:
            for path in sorted(folder.glob(f"{FOLDER}/*/*")):
                files.write(paths.join(target, path.name), path.read_bytes())
        except TuneloopError as e:
            log.warning("the profile of steps %d to %d is lost: %s", self._first, self._last, e)
        else:
            log.info("profile of steps %d to %d: %s", self._first, self._last, target)
