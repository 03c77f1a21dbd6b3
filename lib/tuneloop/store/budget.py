"""Memory of requests in progress: bytes of unfinished bodies and of unsent replies.

All requests of a process share one budget. If it is spent, the request that has waited longest for
its client loses its bytes to one that goes on; only if there is none, a request is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tuneloop.settings.limits import Limits, advice

SMALL_BYTES = 1 << 20
"""A request that needs no more than this may use the whole budget."""
RESERVED_SHARE = 8
"""One in this many bytes of the budget is left to small requests."""
STALLED_SECONDS = 1.0
"""A request that has waited this long for its client may lose its bytes."""


class Budget:
    """The bytes that the requests of one process may hold; used by the event loop only."""

    def __init__(self, limits: Limits) -> None:
        """Start without requests."""
        self.total = limits.bytes_in_flight
        self.used = 0
        self._waiting: dict[Share, float] = {}

    def take(self, share: Share, count: int) -> bool:
        """Give bytes to a request, from stalled ones if necessary; returns whether it has them."""
        allowed = self.total
        if share.held + count > SMALL_BYTES:
            allowed -= self.total // RESERVED_SHARE
        while self.used + count > allowed:
            stalled = self._longest_stalled(share)
            if stalled is None:
                return False
            stalled.lose()
        self.used += count
        return True

    def _longest_stalled(self, asking: Share) -> Share | None:
        now = time.monotonic()
        for share, since in self._waiting.items():
            if now - since < STALLED_SECONDS:
                return None
            if share is not asking and share.held:
                return share
        return None

    def give(self, count: int) -> None:
        """Take back bytes."""
        self.used -= count

    def set_waiting(self, share: Share, is_waiting: bool) -> None:
        """Record whether a request waits for its client."""
        self._waiting.pop(share, None)
        if is_waiting:
            self._waiting[share] = time.monotonic()

    @property
    def refusal(self) -> str:
        """Say that the budget is spent."""
        return (
            f"The store holds {self.total >> 20} MiB of unfinished requests and replies; try again"
            f" later, {advice('bytes_in_flight')}"
        )


class Share:
    """The bytes of one request."""

    def __init__(self, budget: Budget) -> None:
        """Start without bytes."""
        self.budget, self.held, self.is_lost = budget, 0, False
        self.on_loss: Callable[[], None] = lambda: None
        """Called when the bytes are given to another request; must stop this one."""

    def take(self, count: int) -> bool:
        """Hold more bytes; returns False if there are none, or if this request has lost its own."""
        if self.is_lost or not self.budget.take(self, count):
            return False
        self.held += count
        return True

    def give(self, count: int) -> None:
        """Hold fewer bytes; what was lost already is not given back twice."""
        count = min(count, self.held)
        self.held -= count
        self.budget.give(count)

    def lose(self) -> None:
        """Give all bytes back, and stop the request."""
        self.is_lost = True
        self.close()
        self.on_loss()

    def close(self) -> None:
        """Give all bytes back when the request ends."""
        self.budget.set_waiting(self, False)
        self.give(self.held)
