"""Stop a stage soon after SIGTERM or SIGINT, also while it computes what nothing can interrupt.

A signal sets a flag, which stages check between two pieces of work. Python runs its handler only
when the main thread returns from C code, and a compilation can take minutes. A thread therefore
sees signals too, and ends a process that has nothing to save.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneloop.stages.lifecycle.context import Stage

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE_SECONDS = 6.0
"""Seconds that a stage gets to stop by itself; a local runner kills it 30 s after the signal."""
LOOK_SECONDS = 1.0
"""Seconds between looks at a stage that still saves its work."""


class StopOnSignal:
    """While the block runs, signals ask the stage to stop, and end it if it does not react.

    A process group is different: JAX takes SIGTERM from Python there, and all its processes agree
    on a step at which they stop.
    """

    def __init__(
        self,
        stage: Stage,
        leave: Callable[[], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Prepare; signals are handled from the start of the block.

        Args:
            stage: the stage that is asked to stop.
            leave: ends the process; called in a thread if the stage does not stop and holds no
                unsaved work.
            patience_seconds: seconds from the signal to `leave`.
        """
        self._stage, self._leave, self._patience_seconds = stage, leave, patience_seconds
        self._ended = threading.Event()

    def __enter__(self) -> StopOnSignal:
        for number in SIGNALS:
            signal.signal(number, lambda *_: self._stage.request_stop())
        self._received, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        # The interpreter's C code writes the number of each signal to this socket at once.
        self._previous = signal.set_wakeup_fd(self._sent.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        signal.set_wakeup_fd(self._previous)
        self._sent.close()
        self._thread.join()
        self._received.close()

    def _watch(self) -> None:
        while numbers := self._received.recv(64):
            if any(number in SIGNALS for number in numbers):
                self._stage.request_stop()
                self._end_if_stuck()
                return

    def _end_if_stuck(self) -> None:
        if self._ended.wait(self._patience_seconds):
            return
        if self._stage.holds_unsaved_work:
            log.info("a signal asks the stage to stop; it goes on until its work is saved")
        while self._stage.holds_unsaved_work:
            if self._ended.wait(LOOK_SECONDS):
                return
        if not self._ended.wait(LOOK_SECONDS):
            self._leave()
