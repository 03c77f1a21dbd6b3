"""Selections of previews, kept for a while so that a build of the same request need not select."""

from __future__ import annotations

import threading
import time
import uuid
from array import array
from dataclasses import dataclass

from tuneloop import jsonl
from tuneloop.datasets.schema import BuildRequest
from tuneloop.datasets.selection.account import SelectionAccount

KEPT_SECONDS = 600.0
"""Seconds after which a selection is forgotten."""
KEPT_COUNT = 4
"""Maximum number of selections; a new one replaces the oldest."""
KEPT_TRACES = 1_000_000
"""Maximum number of traces of a selection; each takes 8 bytes."""


@dataclass(frozen=True)
class Kept:
    """The traces that a preview has selected."""

    numbers: array[int]
    """`seq` of each trace, in the order of the selection."""
    account: SelectionAccount


class KeptSelections:
    """The newest selections of previews, in memory. All methods may be called from any thread."""

    def __init__(self) -> None:
        """Start without selections."""
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes, Kept]] = {}

    def keep(self, request: BuildRequest, seed: int, kept: Kept) -> str:
        """Keep a selection; returns the id of the preview.

        Args:
            request: the request of the preview.
            seed: the seed that was used.
            kept: what was selected.
        """
        name = str(uuid.uuid4())
        with self._lock:
            while len(self._kept) >= KEPT_COUNT:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = (time.monotonic() + KEPT_SECONDS, _key(request, seed), kept)
        return name

    def find(self, name: str | None, request: BuildRequest, seed: int) -> Kept | None:
        """Return the selection of a preview; None if it is forgotten or of another request.

        Args:
            name: id of the preview; None finds nothing.
            request: the request of the build.
            seed: seed of the build.
        """
        now = time.monotonic()
        with self._lock:
            for old in [each for each, (until, *_) in self._kept.items() if until < now]:
                del self._kept[old]
            found = None if name is None else self._kept.get(name)
        if found is None or found[1] != _key(request, seed):
            return None
        return found[2]


def _key(request: BuildRequest, seed: int) -> bytes:
    """Return the request with its seed as JSON, in which true and 1 differ."""
    return jsonl.dump_line({**request.model_dump(mode="json"), "seed": seed})
