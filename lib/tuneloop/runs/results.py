"""The result of a stage, and the type of the callback that shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tuneloop.artifacts import progress
from tuneloop.artifacts.records import Record

Progress = Callable[[str, progress.Progress], None]
"""Called with (stage name, its heartbeat)."""


@dataclass(frozen=True)
class StageResult:
    """The result of one stage."""

    name: str
    state: Literal["done", "cached"]
    """`done`: the stage ran in this call; `cached`: its record existed before."""
    seconds: float
    """Seconds of wall time in this call, including process start and waiting for machines."""
    record: Record
