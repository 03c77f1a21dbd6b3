"""Wall time of training steps, and the parts of it that are not computation."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax.monitoring

log = logging.getLogger(__name__)

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""JAX's event with the seconds in the compiler, or in reading the program from the cache."""
CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"
"""JAX's event for a program that was read from the persistent compilation cache."""


@dataclass(frozen=True)
class StepTimes:
    """Times of one step in seconds."""

    step: float
    """Since the end of the previous step, without pauses."""
    compiling: float
    """Part of `step` that the compiler took."""


class StepClock:
    """Measures the time between steps; pauses do not count."""

    def __init__(self) -> None:
        """Start the first step."""
        self.cache_hits = 0
        """Programs of this thread that were read from the compilation cache."""
        self._thread = threading.get_ident()
        self._since = time.perf_counter()
        self._compiled = self._compiled_before = 0.0
        self._laps = 0
        self._waits: dict[int, float] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take notice of compilations while the block runs."""
        jax.monitoring.register_event_duration_secs_listener(self._add_duration)
        jax.monitoring.register_event_listener(self._add_event)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._add_duration)
            jax.monitoring.unregister_event_listener(self._add_event)

    def _add_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        # Other threads save checkpoints; the loop does not wait for what they compile.
        if event == COMPILE_EVENT and threading.get_ident() == self._thread:
            self._compiled += duration_secs

    def _add_event(self, event: str, **kwargs: str | int) -> None:
        if event == CACHE_HIT_EVENT and threading.get_ident() == self._thread:
            self.cache_hits += 1

    def start(self) -> None:
        """Start the first step now."""
        self._since, self._compiled_before = time.perf_counter(), self._compiled

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude a block from the time of the step, with what is compiled in it."""
        since, compiled = time.perf_counter(), self._compiled
        try:
            yield
        finally:
            self._since += time.perf_counter() - since
            self._compiled_before += self._compiled - compiled

    @contextlib.contextmanager
    def waiting_for_batch(self, step: int) -> Iterator[None]:
        """Measure the block that makes the batch of a step."""
        since = time.perf_counter()
        yield
        self._waits[step] = time.perf_counter() - since

    def data_wait(self, step: int) -> float:
        """Return the seconds that the loop waited for the batch of a step; called once a step."""
        return self._waits.pop(step)

    def lap(self) -> StepTimes:
        """End a step and start the next one."""
        now, compiled = time.perf_counter(), self._compiled
        times = StepTimes(now - self._since, compiled - self._compiled_before)
        if not self._laps:
            log.info(
                "first step: %.1f s, %.1f s of them compiling; %d programs were read from the"
                " compilation cache",
                times.step,
                times.compiling,
                self.cache_hits,
            )
        self._laps += 1
        self._since, self._compiled_before = now, compiled
        return times
