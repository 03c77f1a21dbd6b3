"""progress.json: the heartbeat of a running stage, overwritten every few seconds.

Users and supervisors read it to see how far a stage is; no stage reads it.
"""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.errors import SpecError
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import Sealed, sealed


class Progress(Sealed, BaseModel):
    """Progress of a stage; a stage may add values of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: str = ""
    """Name of the stage."""
    attempt: str = ""
    """Folder that the process writes to."""
    updated_at: str
    """Time of the heartbeat, UTC, ISO 8601."""
    step: int | None = None
    """Units of work done; null before the first unit."""
    total: int | None = None
    """Total units of work."""
    rate_per_second: float | None = None
    """Rate of the last minute; null while too little is known, such as during compilation."""
    estimated_seconds_left: float | None = None
    """Estimated seconds to the last unit, from stages that know their units' sizes; null
    otherwise."""
    loss: float | None = None
    """Training loss at that step; null for stages that do not train."""

    reached_step: int | None = None
    """Step of an earlier attempt that this one has not continued yet; null otherwise."""
    repeated_steps: int | None = None
    """Steps that restarts have made necessary again so far; null for none."""

    log_sha256: str | None = None
    """Digest of the log that was written with this heartbeat; null in files of older versions."""

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the last unit; None if it is not known."""
        if self.estimated_seconds_left is not None:
            return self.estimated_seconds_left
        if not self.rate_per_second or self.total is None or self.step is None:
            return None
        return max(0, self.total - self.step) / self.rate_per_second


def dump_progress(progress: Progress) -> bytes:
    """Serialize a heartbeat; fields that were not set are absent."""
    value = progress.model_dump(exclude_unset=True)
    return json.dumps(sealed(value), sort_keys=True).encode() + b"\n"


def progress_url(stage_prefix: str) -> str:
    """Return the URL of the heartbeat of a stage."""
    return paths.join(stage_prefix, "progress.json")


def read_progress(stage_prefix: str) -> Progress | None:
    """Read the newest heartbeat of a stage; None before the first, or while it is torn."""
    return read_progress_at(progress_url(stage_prefix))


def read_progress_at(url: str) -> Progress | None:
    """Read the newest heartbeat of one process; None before the first, or while it is torn."""
    try:
        return Progress.model_validate_json(files.read(url))
    except (FileNotFoundError, ValidationError, SpecError):  # SpecError: it is a folder
        return None
