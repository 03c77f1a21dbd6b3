"""Write a file again and again without making the writer wait for the storage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tuneloop.errors import Transient
from tuneloop.storage import files

log = logging.getLogger(__name__)


class BackgroundFile:
    """A file whose newest content a thread writes; content that is replaced before is skipped."""

    def __init__(self, url: str, check: Callable[[], None] = lambda: None) -> None:
        """Know the file; the thread starts with the first content.

        Args:
            url: URL of the file.
            check: called before each write; raises if the file must not be written any more.
        """
        self._url, self._check = url, check
        self._changed = threading.Condition()
        self._pending: bytes | None = None
        self._is_writing = self._is_closed = False
        self._since = 0.0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Hand over the whole new content.

        Raises:
            TuneloopError: the storage has refused an earlier content for good. A transient failure
                is logged only, because the next content replaces the lost one.
        """
        with self._changed:
            self._raise_refusal()
            self._pending, self._since = data, time.monotonic()
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background-file", daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Wait until the newest content is written, and end the thread.

        Args:
            seconds: how long to wait at most, counted from the last `write`.

        Raises:
            TuneloopError: the storage refuses for good.
        """
        with self._changed:
            left = max(0.0, self._since + seconds - time.monotonic())
            if not self._changed.wait_for(self._is_done, left):
                log.warning("%s is not written: the storage does not answer", self._url)
            self._is_closed = True
            self._changed.notify_all()
            self._raise_refusal()

    def _is_done(self) -> bool:
        return self._pending is None and not self._is_writing

    def _raise_refusal(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._is_closed)
                if self._pending is None:
                    return
                data, self._pending, self._is_writing = self._pending, None, True
            try:
                self._check()
                files.write(self._url, data)
            except Transient as e:
                log.warning("%s; it is written again later", e)
            except Exception as e:  # raised by the next call of the thread that writes
                self._error = e
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
