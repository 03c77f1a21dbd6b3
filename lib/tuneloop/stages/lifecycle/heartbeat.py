"""The heartbeat of a stage: its log and progress, written while it works."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from tuneloop.artifacts.stage_logs.own import LOG_FORMAT, keep_earlier_log
from tuneloop.artifacts.stage_logs.redaction import RedactingFormatter
from tuneloop.errors import TuneloopError
from tuneloop.storage import files

if TYPE_CHECKING:
    from tuneloop.stages.lifecycle.context import Stage

HEARTBEAT_SECONDS = 2.0
"""Seconds between updates of log.txt and progress.json; the contract requires at most 30."""


class Heartbeat(logging.Handler):
    """Collects log lines; a thread writes them and the progress, even during a long compile."""

    def __init__(self, stage: Stage) -> None:
        """Start with no lines; nothing is written before the block begins."""
        super().__init__()
        self._stage = stage
        self._text = bytearray()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.setFormatter(RedactingFormatter(LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
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
        stage = self._stage
        with contextlib.suppress(TuneloopError):
            urls = stage.own_url("log.txt"), stage.own_url("progress.json")
            keep_earlier_log(stage.prefix, *urls, stage.attempt)
        self._write()
        while not self._done.wait(HEARTBEAT_SECONDS):
            if os.getppid() != self._stage.parent:  # the process that waited has ended
                self._stage.request_stop()
            self._write()

    def _write(self) -> None:
        # No stage reads these files, so a failed write must not end a stage that could still
        # finish. If the disk is full, writing the outputs fails too.
        with contextlib.suppress(TuneloopError):
            text = bytes(self._text)
            files.write(self._stage.own_url("log.txt"), text)
            digest = hashlib.sha256(text).hexdigest()
            files.write(self._stage.own_url("progress.json"), self._stage.progress_json(digest))
