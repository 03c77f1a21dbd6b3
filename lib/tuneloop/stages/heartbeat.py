"""Signs of life of a stage: its log and progress, brought up to date while it works."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from tuneloop.errors import TuneloopError
from tuneloop.storage import files

if TYPE_CHECKING:
    from tuneloop.stages.context import Stage

HEARTBEAT_SECONDS = 2.0
"""How often log.txt and progress.json are brought up to date; the contract asks for 30."""


class Heartbeat(logging.Handler):
    """Collects log lines; a thread writes them and the progress, so a long compile shows life."""

    def __init__(self, stage: Stage) -> None:
        """Nothing is written before the block begins."""
        super().__init__()
        self._stage = stage
        self._text = bytearray()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        self._text += self.format(record).encode("utf-8", "replace") + b"\n"

    def __enter__(self) -> Heartbeat:
        logging.getLogger().addHandler(self)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        logging.getLogger().removeHandler(self)
        self._write()

    def _run(self) -> None:
        self._write()
        while not self._done.wait(HEARTBEAT_SECONDS):
            if os.getppid() != self._stage.parent:  # its runner is gone, nobody waits any more
                self._stage.request_stop()
            self._write()

    def _write(self) -> None:
        # Neither file is an input of anything: that they cannot be written must not end a stage
        # that could still finish; its own outputs will say it if the disk is full.
        with contextlib.suppress(TuneloopError):
            files.write(self._stage.own_url("log.txt"), bytes(self._text))
            files.write(self._stage.own_url("progress.json"), self._stage.progress_json())
