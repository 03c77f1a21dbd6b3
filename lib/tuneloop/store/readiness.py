"""The checks of the readiness probe: each in a thread of its own, with a deadline.

A check that hangs delays neither other requests nor other checks. All probes that arrive while it
runs share its result, so it occupies one thread however often it is asked for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from tuneloop.errors import Transient, TuneloopError, Unavailable
from tuneloop.storage.errors import sentences


class Check:
    """One check, shared by all that ask at the same time."""

    def __init__(self, name: str, look: Callable[[], object], seconds: float) -> None:
        """Create a check without running it.

        Args:
            name: name of the thread.
            look: checks something, and raises a TuneloopError if it is not as it should be.
            seconds: deadline.
        """
        self._name, self._look, self._seconds = name, look, seconds
        self._lock = threading.Lock()
        self._started = 0.0
        self._result: Future[None] | None = None

    async def failure(self) -> TuneloopError | None:
        """Return why the check failed, or None; takes at most the seconds of the deadline."""
        result = self._current()
        left = self._started + self._seconds - time.monotonic()
        try:
            # The result is shared, so this probe must not cancel it.
            shared = asyncio.shield(asyncio.wrap_future(result))
            await asyncio.wait_for(shared, max(0.0, left))
        except TimeoutError:
            return Transient(
                f"{self._name}: no answer within {self._seconds:g} s; check that it can be reached"
            )
        except TuneloopError as e:
            return e
        return None

    def _current(self) -> Future[None]:
        with self._lock:
            if self._result is not None and not self._result.done():
                return self._result
            self._result, self._started = Future(), time.monotonic()
            # A daemon does not keep the process from ending while the check hangs.
            arguments = (self._result,)
            threading.Thread(target=self._run, args=arguments, name=self._name, daemon=True).start()
            return self._result

    def _run(self, result: Future[None]) -> None:
        try:
            self._look()
        except BaseException as e:
            result.set_exception(e)
        else:
            result.set_result(None)


def check_room(folder: Path, free_bytes: int) -> None:
    """Check that files in a folder can be written and can grow.

    Args:
        folder: the folder; if it does not exist yet, the one in which it would be created.
        free_bytes: free space that the disk must have.

    Raises:
        TuneloopError: there is less space, or a file cannot be written.
    """
    folder = next(each for each in (folder, *folder.parents) if each.is_dir())
    with sentences(str(folder), "written"):
        free = shutil.disk_usage(folder).free
        if free < free_bytes:
            raise Unavailable(
                f"{folder}: the disk has {free} bytes of free space, expected {free_bytes}; free"
                " some space"
            )
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
