"""Merge the lines of several attempts by their timestamps, while they are still growing."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.artifacts.stage_logs.lines import Line


class Merger:
    """Puts lines in the order of their timestamps; lines of one attempt keep their order."""

    def __init__(self) -> None:
        """Start without lines."""
        self._queues: dict[Attempt, deque[tuple[int, Line]]] = {}
        self._newest: dict[Attempt, int] = {}
        self._arrived: int | None = None

    def add(self, attempt: Attempt, lines: Iterable[Line]) -> None:
        """Add the next lines of one attempt."""
        queue = self._queues.setdefault(attempt, deque())
        newest = self._newest.get(attempt, 0)
        for line in lines:
            newest = max(newest, line.stamp)  # a clock that is set back does not hold up lines
            queue.append((newest, line))
        self._newest[attempt] = newest

    def release(self, behind: Collection[Attempt], *, hold: bool) -> Iterator[tuple[Attempt, Line]]:
        """Yield the lines that are due.

        Args:
            behind: attempts with more lines to read at once; no line that is newer than their last
                line is due.
            hold: whether to hold the lines that arrived since the last call, because earlier lines
                of other attempts may still be on their way.
        """
        arrived = max(self._newest.values(), default=0)
        until = self._arrived if hold else arrived
        self._arrived = arrived
        if known := [self._newest[each] for each in behind if self._newest.get(each)]:
            until = min(known)
        if until is None:
            return
        heads = [(q[0][0], attempt) for attempt, q in self._queues.items() if q]
        heapq.heapify(heads)
        while heads and heads[0][0] <= until:
            _, attempt = heads[0]
            queue = self._queues[attempt]
            yield attempt, queue.popleft()[1]
            if queue:
                heapq.heapreplace(heads, (queue[0][0], attempt))
            else:
                heapq.heappop(heads)
