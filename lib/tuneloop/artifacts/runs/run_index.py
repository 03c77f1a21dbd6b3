"""run_index/<run id>.json: what lists show of a run, in one small file.

It is rebuilt from the manifest and the records of the run, so losing it loses nothing. Only lists
read it; everything that decides or deletes reads the records.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.storage import files
from tuneloop.storage.sealed import Sealed, sealed


class IndexedStage(BaseModel):
    """A stage with a record."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    reused: bool
    """Whether another run made the result."""
    started_at: str
    """Start of the process, UTC, ISO 8601."""
    seconds: float
    """Seconds from the start of the process to the record."""


class RunIndex(Sealed, BaseModel):
    """What lists show of a run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    name: str
    """Name of the run spec."""
    dataset: str
    """Key of the dataset; empty without one."""
    model: str
    """Name of the base model, or its family if it has random weights."""
    planned: tuple[str, ...]
    """Names of all stages, in order."""
    finished: tuple[IndexedStage, ...]
    """The stages before the first one without a record, in order."""
    accuracy_base: float | None = None
    """Accuracy of the base model, 0 to 1; null before the evaluation."""
    accuracy_tuned: float | None = None
    """Accuracy of the tuned model, 0 to 1."""

    @property
    def is_complete(self) -> bool:
        """Whether every stage has its record, so that the index cannot become out of date."""
        return len(self.finished) == len(self.planned)


def parse_run_index(data: bytes | None, run_id: str) -> RunIndex | None:
    """Parse the index of a run; None if it is missing, broken or of another run."""
    try:
        index = None if data is None else RunIndex.model_validate_json(data)
    except ValidationError:
        return None
    return index if index is not None and check_run_index(index, run_id) else None


def check_run_index(index: RunIndex, run_id: str) -> bool:
    """Return whether an index can be that of a run."""
    names = tuple(stage.name for stage in index.finished)
    is_possible = bool(index.planned) and names == index.planned[: len(names)]
    return is_possible and index.run_id == run_id


def write_run_index(index: RunIndex, artifacts: str) -> None:
    """Write the index of a run, replacing an earlier one."""
    data = jsonl.dump_line(sealed(index.model_dump(mode="json")))
    files.write(layout.run_index_url(artifacts, index.run_id), data)
