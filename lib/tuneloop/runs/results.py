"""How a stage went, and the callback that shows how far it is."""

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
    """How one stage went."""

    name: str
    state: Literal["done", "cached"]
    """done: it ran now; cached: its record existed."""
    seconds: float
    """Wall time of this call, process start and waiting for machines included."""
    record: Record
