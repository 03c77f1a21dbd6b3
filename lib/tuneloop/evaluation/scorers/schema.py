"""What a scorer returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["correct", "wrong", "no_answer"]


@dataclass(frozen=True)
class Score:
    """What a scorer found, and on what grounds."""

    outcome: Outcome
    answer: str | None
    """The extracted answer as the model wrote it."""
    matched: str | None
    """The accepted spelling that it equals, normalised; None unless correct."""
