"""The recent rate of a stage, which neither compilation nor an earlier attempt distorts."""

from __future__ import annotations

import threading
from collections import deque

WINDOW_SECONDS = 60.0
"""Seconds of work that the rate is measured over, if they hold enough reports."""
FEWEST_INTERVALS = 3
"""Intervals between reports that a rate needs; slow steps are measured over a longer time."""
SILENCE_SECONDS = 10.0
"""Seconds without a report, beyond five usual intervals, after which the rate is unknown."""


class Pace:
    """Measures how fast a count grows."""

    def __init__(self) -> None:
        """Start without reports."""
        self._lock = threading.Lock()  # the thread of the heartbeat asks for the rate
        self._reports: deque[tuple[float, int]] = deque()
        self._has_warmed_up = False

    def report(self, step: int, now: float) -> None:
        """Note that a step has been reached.

        Args:
            step: units of work done; a smaller number than before starts a new piece of work.
            now: seconds on a clock that is never set back.
        """
        with self._lock:
            self._report(step, now)

    def _report(self, step: int, now: float) -> None:
        if self._reports and step < self._reports[-1][1]:
            self._reports.clear()
            self._has_warmed_up = False
        self._reports.append((now, step))
        if len(self._reports) == 2 and not self._has_warmed_up:
            # The first unit includes compilation, or the work of an earlier attempt.
            self._has_warmed_up = True
            self._reports.popleft()
        while (
            len(self._reports) > FEWEST_INTERVALS + 1
            and self._reports[1][0] <= now - WINDOW_SECONDS
        ):
            self._reports.popleft()

    def rate(self, now: float) -> float | None:
        """Return units per second; None if too little is known, or if nothing advances."""
        with self._lock:
            intervals = len(self._reports) - 1
            if intervals < FEWEST_INTERVALS:
                return None
            (since, first), (until, last) = self._reports[0], self._reports[-1]
        if until <= since or last <= first:
            return None
        usual = (until - since) / intervals
        if now - until > 5 * usual + SILENCE_SECONDS:
            return None
        return (last - first) / (until - since)
