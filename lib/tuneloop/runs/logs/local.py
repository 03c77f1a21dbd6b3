"""The output of a stage process on this machine, as part of the archive of its run."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from tuneloop.artifacts.stage_logs.archive import Archive, AttemptEnd
from tuneloop.artifacts.stage_logs.attempt import LOCAL_POD, Attempt
from tuneloop.errors import TuneloopError
from tuneloop.storage import files

log = logging.getLogger(__name__)

STORE_SECONDS = 10.0
"""Seconds between two copies of the output to an object store."""


class LocalOutput:
    """The file that receives the output of a stage process.

    With local artifacts, the process writes into the archive itself, so that no line is lost if
    this process is killed. Otherwise the file is copied to the object store while it grows.
    """

    def __init__(self, stage_prefix: str, scratch: Path) -> None:
        """Create the empty file.

        Args:
            stage_prefix: URL that the stage writes below.
            scratch: local folder for the file if the artifacts are on an object store.
        """
        created = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        attempt = Attempt(0, created, LOCAL_POD, secrets.token_hex(4))
        self._archive = Archive(stage_prefix, attempt)
        place = files.local_path(self._archive.output_url())
        self._is_remote = place is None
        self.path = scratch / "output" if place is None else Path(place)
        files.make_folder(str(self.path.parent))
        self.path.touch()
        self._stored_at, self._stored_bytes = time.monotonic(), 0
        self._has_ended = False

    def store(self) -> None:
        """Copy the output to the object store if it has grown and the last copy is old enough."""
        if self._is_remote and time.monotonic() - self._stored_at > STORE_SECONDS:
            self._copy()

    def end(self, exit_code: int) -> None:
        """Store the whole output and how the process ended; further calls have no effect."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_remote:
            self._copy()
        try:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
            self._archive.write_end(AttemptEnd(exit_code=exit_code, output_sha256=digest))
        except (OSError, TuneloopError) as e:
            log.warning("the end of a log is not stored: %s", e)

    def _copy(self) -> None:
        data = self.path.read_bytes()
        self._stored_at = time.monotonic()
        if len(data) == self._stored_bytes:
            return
        try:
            files.write(self._archive.output_url(), data)
            self._stored_bytes = len(data)
        except TuneloopError as e:  # a run does not fail because of its logs
            log.warning("the log is not stored: %s", e)
