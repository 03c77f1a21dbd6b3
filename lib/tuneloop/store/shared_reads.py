"""Values that many viewers watch: one read serves all of them.

A value is read again only if someone asks for it and it is older than a few seconds. The load on
the artifact store therefore depends on the number of watched runs, not on the number of viewers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tuneloop.errors import TuneloopError

T = TypeVar("T")

MAX_AGE_SECONDS = 2.0
"""A value that is older is read again when someone asks for it."""
MAX_KEYS = 64
"""Maximum number of values in memory; the one that nobody asked for the longest is dropped."""


@dataclass
class _Entry(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None
    error: TuneloopError | None = None
    read_at: float | None = None


class SharedReads(Generic[T]):
    """The newest value of each key, for any number of threads."""

    def __init__(self) -> None:
        """Start without values."""
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, read: Callable[[T | None], T]) -> T:
        """Return the value of a key, which is at most MAX_AGE_SECONDS old if the storage answers.

        While one thread reads a value again, the others get the previous one.

        Args:
            key: which value.
            read: reads the value; gets the previous one, or None.

        Raises:
            TuneloopError: the value could not be read, now or within the last MAX_AGE_SECONDS.
        """
        entry = self._entry(key)
        is_first = entry.value is None
        if not self._is_fresh(entry) and entry.lock.acquire(blocking=is_first):
            try:
                if not self._is_fresh(entry):
                    self._read(entry, read)
            finally:
                entry.lock.release()
        if entry.error is not None:
            raise entry.error
        assert entry.value is not None
        return entry.value

    def _read(self, entry: _Entry[T], read: Callable[[T | None], T]) -> None:
        try:
            entry.value, entry.error = read(entry.value), None
        except TuneloopError as e:
            entry.error = e
        finally:
            entry.read_at = time.monotonic()

    def _is_fresh(self, entry: _Entry[T]) -> bool:
        return entry.read_at is not None and time.monotonic() - entry.read_at < MAX_AGE_SECONDS

    def _entry(self, key: str) -> _Entry[T]:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > MAX_KEYS:
                self._entries.popitem(last=False)
            return entry
