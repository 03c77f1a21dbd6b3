"""Answers of finished batches, from which a stage goes on after it was killed.

Each process keeps them in files below `resume/answers/` of its stage. A file holds the batches of a
second or more, because a small model answers faster than an object store takes files. A file that
was changed is deleted, and its batches are generated again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple

from tuneloop.errors import TuneloopError
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import SEAL, sealed, unsealed

log = logging.getLogger("tuneloop.stage")

SECONDS_PER_FILE = 1.0
"""Least time between two files."""

Answers = Mapping[int, Generation]
"""Number of the draw in its pass -> its answer."""


class SavedBatches:
    """The finished batches of one process of a stage."""

    def __init__(self, stage: Stage, *, seconds_per_file: float = SECONDS_PER_FILE) -> None:
        """Read what earlier attempts of this process have left.

        Args:
            stage: the stage; its share of the work is this process's.
            seconds_per_file: least time between two files.

        Raises:
            Transient: the storage does not answer.
        """
        self._folder = paths.join(stage.prefix, "resume", "answers", stage.shard or "all")
        self._attempt, self._fingerprint = stage.attempt, stage.spec.fingerprint
        self._seconds_per_file, self._last_write = seconds_per_file, time.monotonic()
        self._waiting: dict[str, list[tuple[int, str, int, bool]]] = {}
        self._urls: list[str] = []
        self._found: dict[str, dict[int, Generation]] = {}
        for name in files.list_names(self._folder):
            if name.endswith(".json"):
                self._read(paths.join(self._folder, name))
        if self._found:
            log.info("%d finished batches of an earlier attempt are used again", len(self._found))

    def find(self, key: str, expected: Iterable[int]) -> Answers | None:
        """Return the answers of a batch; None if it is not finished.

        Args:
            key: digest of everything that the answers depend on.
            expected: numbers of the draws of the batch.
        """
        found = self._found.get(key)
        return found if found is not None and found.keys() == set(expected) else None

    def add(self, key: str, answers: Answers) -> None:
        """Keep the answers of a finished batch; a file is written after a second."""
        self._waiting[key] = [(number, *astuple(each)) for number, each in answers.items()]
        if time.monotonic() - self._last_write >= self._seconds_per_file:
            self.flush()

    def flush(self) -> None:
        """Write the batches that are not in a file yet."""
        if not self._waiting:
            return
        url = paths.join(self._folder, f"{self._attempt}-{len(self._urls):06d}.json")
        value = {"fingerprint": self._fingerprint, "batches": self._waiting}
        files.write(url, json.dumps(sealed(value)).encode())
        self._urls.append(url)
        self._waiting, self._last_write = {}, time.monotonic()

    def delete(self) -> None:
        """Delete all files, once a record holds the answers; a failure only leaves them there."""
        self._waiting.clear()
        with contextlib.suppress(TuneloopError):
            files.delete_tree(self._folder)

    def _read(self, url: str) -> None:
        try:
            batches = _parse(files.read(url), self._fingerprint)
        except FileNotFoundError:  # another attempt of this process has just ended
            return
        except (ValueError, RecursionError) as e:
            log.warning("%s: %s; its batches are generated again", url, e)
            with contextlib.suppress(TuneloopError):
                files.delete(url)
            return
        self._urls.append(url)
        self._found |= batches


def _parse(data: bytes, fingerprint: str) -> dict[str, dict[int, Generation]]:
    """Read the batches of a file.

    Raises:
        ValueError: the file was changed, or it belongs to another stage.
    """
    try:
        value = json.loads(data)
    except ValueError as e:
        raise ValueError("is not JSON, so it was changed or cut") from e
    if not isinstance(value, dict) or SEAL not in value:
        raise ValueError("has no seal, so it was changed")
    value = unsealed(value)
    if value.get("fingerprint") != fingerprint:
        raise ValueError("belongs to another stage")
    return {
        key: {row[0]: Generation(row[1], row[2], hit_limit=row[3]) for row in rows}
        for key, rows in value["batches"].items()
    }
