"""What both backends say of a stage: how it went, and how far it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tuneloop.artifacts.records import Record
from tuneloop.storage import files, paths

Progress = Callable[[str, dict[str, Any]], None]
"""Called with (stage name, what progress.json holds)."""


@dataclass(frozen=True)
class StageResult:
    """How one stage went."""

    name: str
    state: Literal["done", "cached"]
    """done: it ran now; cached: its record was there."""
    seconds: float
    """Wall time now, process start and waiting for machines included."""
    record: Record


def read_progress(stage_prefix: str) -> dict[str, Any]:
    """The newest heartbeat of a stage; empty before the first one."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        value: dict[str, Any] = json.loads(files.read(paths.join(stage_prefix, "progress.json")))
        return value
    return {}
