"""The result of `tuneloop cancel`, the same for runs on a cluster and on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed


@dataclass(frozen=True)
class Cancellation:
    """What a cancellation ended, and what it could not end."""

    ended: tuple[str, ...] = ()
    """Objects that were deleted and processes that were asked to stop, such as `Job demo-train`."""
    kept: tuple[str, ...] = ()
    """Objects that were left alone, each with the reason."""
    remaining: tuple[str, ...] = ()
    """What still exists after the wait, each with the reason and what to do."""

    def __add__(self, other: Cancellation) -> Cancellation:
        """Combine two results, for example those of two runs."""
        return Cancellation(
            self.ended + other.ended, self.kept + other.kept, self.remaining + other.remaining
        )


def repeat_until_none_left(
    advance: Callable[[], list[str]],
    wait_seconds: float,
    poll_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Call `advance`, which returns what is left, until nothing is left or the time is over.

    Args:
        advance: does the next step of a cancellation.
        wait_seconds: maximum seconds to wait.
        poll_seconds: seconds between two calls.
        sleep: waits between two calls.
    """
    retrying = Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_delay(wait_seconds),
        wait=wait_fixed(poll_seconds),
        sleep=sleep,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
    )
    return retrying(advance)
