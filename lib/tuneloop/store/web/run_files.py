"""The parts of a run's files that its page shows, read with tolerance.

A page shows what it can: fields that it does not know are ignored, so that a newer tuneloop's runs
can be looked at. What is left is checked, and a torn file becomes a sentence.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.validation import first_error

MAX_FILE_BYTES = 4 << 20
"""Size limit of a manifest, record, progress or verdict file; a larger file is not ours."""

M = TypeVar("M", bound=BaseModel)


class DatasetOfRun(BaseModel):
    """Which dataset a run was planned for."""

    key: str
    build_id: str
    trace_count: int


class RunManifest(BaseModel):
    """What a page shows of run_manifest.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run_id: str
    seed: int
    recipe: str | None = None
    instruction: str | None = None
    dataset: DatasetOfRun
    stages: dict[str, str]
    spec: dict[str, Any] = {}
    image: str | None = None
    provenance: dict[str, Any] = {}


class Progress(BaseModel):
    """What a page shows of progress.json."""

    updated_at: str
    step: int | None = None
    total: int | None = None


class Verdict(BaseModel):
    """What a page shows of verdict.json."""

    state: str
    cause: str
    fix: str = ""


def read(model: type[M], url: str) -> M | None:
    """Read a file as far as a page shows it, None if there is none.

    Raises:
        DataError: the file is too large, torn, or something else.
    """
    size = files.size_bytes(url)
    if size is None:
        return None
    if size > MAX_FILE_BYTES:
        raise DataError(f"{url}: holds {size} bytes, expected at most {MAX_FILE_BYTES}")
    try:
        return model.model_validate_json(files.read(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; restore it") from e
