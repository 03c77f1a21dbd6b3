"""Read log.txt, which a stage writes itself, for stages that nobody has archived a log of."""

from __future__ import annotations

import re

from tuneloop.artifacts.stage_logs.attempt import LOCAL_POD, Attempt
from tuneloop.artifacts.stage_logs.lines import Line, iter_text_lines
from tuneloop.storage import files, paths

_NAME = re.compile(r"log(?:-(\d+)-of-\d+)?(?:-rank-(\d+))?\.txt")


class PlainLog:
    """The logs that the processes of a stage write themselves, one object each.

    A process overwrites its log every few seconds, and the next attempt starts it anew.
    """

    def __init__(self, stage_prefix: str, rank: int | None) -> None:
        """Store the arguments; nothing is read yet."""
        self._prefix, self._rank = stage_prefix, rank
        self._seen: dict[str, bytes] = {}

    def exists(self) -> bool:
        """Return whether a process has written a log."""
        return bool(self._names())

    def read(self) -> list[tuple[Attempt, Line]]:
        """Return the lines that were added since the last call."""
        found = []
        for name, rank in self._names().items():
            try:
                data = files.read(paths.join(self._prefix, name))
            except FileNotFoundError:
                continue
            seen = self._seen.get(name, b"")
            new = data.removeprefix(seen) if data.startswith(seen) else data
            self._seen[name] = data
            attempt = Attempt(rank, "", LOCAL_POD, "")
            found += [(attempt, line) for line in (iter_text_lines(new, 0) if new else ())]
        return found

    def _names(self) -> dict[str, int]:
        found = {}
        for name in files.list_names(self._prefix):
            if matched := _NAME.fullmatch(name):
                rank = int(matched[1] or matched[2] or 0)
                if self._rank in (None, rank):
                    found[name] = rank
        return found
