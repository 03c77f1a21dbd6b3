"""The time of a stage's processes, as the stage measures it; a part of its record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Work(BaseModel):
    """Time of all processes of a stage together; it differs between runs of one fingerprint."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    useful_seconds: float
    """Seconds of work that the result contains: the training steps, or the whole process of a stage
    that does not train; several processes are added up."""
    repeated_steps: int = 0
    """Training steps that were lost in restarts and made again."""
    repeated_seconds: float = 0.0
    """Seconds of those steps, at the median time of a step; several processes are added up."""
