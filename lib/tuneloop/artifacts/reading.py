"""Read a JSON file of a run as its model, for readers that must not trust the content."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.storage.objects import read_small
from tuneloop.validation import first_error

MAX_FILE_BYTES = 4 << 20
"""Size limit of a manifest, record, heartbeat or verdict; a larger file is not ours."""

M = TypeVar("M")


def read_model(model: type[M], url: str) -> M | None:
    """Read and validate a file; None if there is none.

    Args:
        model: pydantic model or dataclass.
        url: the file.

    Raises:
        DataError: the file is too large, torn, or not this model.
    """
    size = files.size_bytes(url)
    if size is None:
        return None
    if size > MAX_FILE_BYTES:
        raise DataError(f"{url}: holds {size} bytes, expected at most {MAX_FILE_BYTES}; restore it")
    try:
        return TypeAdapter(model).validate_json(read_small(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; restore it") from e
