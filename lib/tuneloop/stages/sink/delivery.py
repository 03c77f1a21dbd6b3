"""Send values to a metrics sink from a thread, so that no server can hold up or fail a stage.

While the server does not answer, values wait in memory up to a limit. What is lost over the limit
is sent at the end of the stage, from metrics.jsonl.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from tenacity import RetryCallState, Retrying, stop_when_event_set
from tenacity.retry import retry_if_exception_type
from tenacity.wait import wait_random_exponential

from tuneloop.stages.sink.mlflow_run import Status
from tuneloop.stages.sink.points import Point

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
"""Seconds over which values are collected for one request."""
MAX_WAITING = 200_000
"""Values that wait in memory for a server that does not answer."""
LAST_PAUSE_SECONDS = 0.5
"""Maximum seconds between two tries once the stage has ended."""
REASON_CHARACTERS = 200
"""Maximum length of a server's error in the log, which may be a page of HTML."""


class Tracker(Protocol):
    """The run on the server."""

    page: str

    def send(self, points: Iterable[Point]) -> None:
        """Send the values that the server does not have."""

    def set_status(self, status: Status) -> None:
        """Set the state of the run."""


class Delivery:
    """Values on their way to a server."""

    def __init__(
        self,
        connect: Callable[[], Tracker],
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        max_pause_seconds: float = 60.0,
    ) -> None:
        """Start the thread, which connects at once.

        Args:
            connect: finds or creates the run; called again after every error.
            interval_seconds: seconds over which values are collected for one request.
            max_pause_seconds: maximum seconds between two tries while the server does not answer.
        """
        self._connect, self._interval_seconds = connect, interval_seconds
        self._tracker: Tracker | None = None
        self._has_warned = False
        self._lock = threading.Lock()
        self._waiting: deque[Point] = deque(maxlen=MAX_WAITING)
        self._batch: deque[Point] = deque()
        self._finishing, self._gives_up = threading.Event(), threading.Event()
        self._last: Callable[[], Iterable[Point]] = lambda: ()
        self._status: Status = "RUNNING"
        self._retrying = Retrying(
            retry=retry_if_exception_type(Exception),
            stop=stop_when_event_set(self._gives_up),
            wait=wait_random_exponential(multiplier=0.5, max=max_pause_seconds),
            sleep=self._pause,
            after=self._failed,
            reraise=True,
        )
        # A daemon: a server that neither answers nor hangs up must not keep the process.
        self._thread = threading.Thread(target=self._work, name="metrics-sink", daemon=True)
        self._thread.start()

    def add(self, points: Iterable[Point]) -> None:
        """Queue values; returns at once."""
        with self._lock:
            self._waiting.extend(points)

    def finish(
        self,
        status: Status,
        last: Callable[[], Iterable[Point]] = lambda: (),
        *,
        seconds: float,
    ) -> bool:
        """Send what is left, and end the thread.

        Args:
            status: how the stage has ended; RUNNING means that another attempt follows.
            last: returns the values that the server must have at the end; called in the thread.
            seconds: how long to wait at most.

        Returns:
            Whether everything is sent.
        """
        self._last, self._status = last, status
        self._finishing.set()
        self._thread.join(seconds)
        is_sent = not self._thread.is_alive()
        self._gives_up.set()
        return is_sent and self._tracker is not None

    def _work(self) -> None:
        try:
            self._retrying(self._start)
            while not self._finishing.wait(self._interval_seconds):
                self._retrying(self._flush)
            self._retrying(self._end)
        except Exception:  # it has given up, and `_failed` has said why
            self._tracker = None

    def _tracked(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._connect()
            log.info("metrics are sent to %s", self._tracker.page)
        if self._gives_up.is_set():
            # The next stage may be sending already, and neither would see the values of the other.
            raise TimeoutError("the stage has ended")
        return self._tracker

    def _start(self) -> None:
        self._tracked().set_status("RUNNING")

    def _flush(self) -> None:
        if not self._batch:  # otherwise the last request has failed
            with self._lock:
                self._batch, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
        if self._batch:
            self._tracked().send(self._batch)
            self._batch = deque()

    def _end(self) -> None:
        while self._batch or self._waiting:
            self._flush()
        self._tracked().send(self._last())
        self._tracked().set_status(self._status)

    def _pause(self, seconds: float) -> None:
        """Wait between two tries; the end of the stage shortens the wait."""
        if not self._finishing.wait(seconds):
            return
        self._gives_up.wait(min(seconds, LAST_PAUSE_SECONDS))

    def _failed(self, state: RetryCallState) -> None:
        """Forget the connection after an error, and warn about the first one."""
        self._tracker = None
        error = state.outcome.exception() if state.outcome else None
        if error is not None and not self._has_warned and not self._gives_up.is_set():
            self._has_warned = True
            reason = " ".join(str(error).split())[:REASON_CHARACTERS]
            log.warning(
                "execution.metrics_sink: the server does not accept metrics (%s: %s); the stage"
                " goes on, and they are sent when the server is back",
                type(error).__name__,
                reason,
            )
