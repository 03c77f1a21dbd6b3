"""The interface to logs that a backend still has, for readers that know only the archive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.artifacts.stage_logs.lines import Line, Window


@dataclass
class Piece:
    """The result of one read of a live log."""

    lines: list[Line] = field(default_factory=list)
    is_gone: bool = False
    """Whether the backend has no log of this attempt, or cannot reach its node."""
    is_whole: bool = False
    """Whether the lines reach the end of the log as it was during the read."""
    may_miss_lines: bool = False
    """Whether the node has replaced its log file since the last read."""


class LiveLogs(Protocol):
    """Logs of the pods of one stage."""

    @property
    def processes(self) -> int:
        """Number of processes that run the stage together."""

    def attempts(self) -> list[Attempt]:
        """Ask the backend, and return the attempts that it may have a log of."""

    def has_ended(self, attempt: Attempt) -> bool:
        """Return whether an attempt wrote its last line before the last call of `attempts`."""

    def read(self, attempt: Attempt, window: Window) -> Piece:
        """Read the lines that are not in the window, and add them to it."""

    def stage_has_ended(self) -> bool:
        """Return whether no further attempt of the stage will start."""
