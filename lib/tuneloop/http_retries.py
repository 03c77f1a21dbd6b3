"""Retries of HTTP requests: what is tried again, and after which pause."""

from __future__ import annotations

import email.utils
import threading
import time

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_any,
    stop_before_delay,
    stop_when_event_set,
)
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

_BUSY = frozenset({408, 425, 429})


class TryAgain(Exception):
    """A request failed, and a retry may succeed.

    Attributes:
        after_seconds: pause that the server asked for; None if it asked for none.
    """

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        """Store the reason and the pause."""
        super().__init__(reason)
        self.after_seconds = after_seconds


def is_temporary(status: int) -> bool:
    """Return whether a retry of a request with this status may succeed."""
    return status in _BUSY or status >= 500


def retrying(seconds: float, stop: threading.Event, max_pause_seconds: float) -> Retrying:
    """Return a caller that repeats a function while it raises `TryAgain`, and raises the last one.

    Args:
        seconds: time limit of all attempts.
        stop: ends retries when it is set.
        max_pause_seconds: longest pause, unless the server asks for a longer one.
    """
    backoff = wait_random_exponential(multiplier=0.5, max=max_pause_seconds)

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after_seconds if isinstance(error, TryAgain) else None
        return backoff(state) if asked is None else asked

    return Retrying(
        retry=retry_if_exception_type(TryAgain),
        stop=stop_any(stop_before_delay(seconds), stop_when_event_set(stop)),
        wait=pause,
        sleep=sleep_using_event(stop),
        reraise=True,
    )


def retry_after_seconds(header: str) -> float | None:
    """Return the pause of a Retry-After header, which holds seconds or a date; None without one."""
    text = header.strip()
    if text.isascii() and text.isdecimal() and len(text) < 6:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
