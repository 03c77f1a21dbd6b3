"""Files that sweeps and rounds have alike: small JSON files, and the mark of a cancellation."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.validation import first_error

CANCELLED = "cancelled"


class GroupFile(BaseModel):
    """Base class of the files; keys of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


F = TypeVar("F", bound=GroupFile)


def read_file(model: type[F], url: str) -> F | None:
    """Read a file; None if there is none.

    Raises:
        DataError: it is broken.
    """
    try:
        return model.model_validate_json(files.read(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; run the spec again to write it anew") from e


def read_or_forget(model: type[F], url: str) -> F | None:
    """Read a file that is made again from records; None if it is missing or broken."""
    try:
        return read_file(model, url)
    except DataError:
        return None


def write_file(value: GroupFile, url: str) -> None:
    """Write a file, replacing an earlier one."""
    files.write(url, value.model_dump_json(indent=1, by_alias=True).encode() + b"\n")


def mark_cancelled(prefix: str) -> None:
    """Tell every process that runs a group to start no other member.

    Args:
        prefix: URL of the folder of the sweep or of the rounds.
    """
    files.write(paths.join(prefix, CANCELLED), b"")


def is_cancelled(prefix: str) -> bool:
    """Return whether a group was cancelled since it was last started; argument as above."""
    return files.exists(paths.join(prefix, CANCELLED))


def clear_cancelled(prefix: str) -> None:
    """Take back an earlier cancellation; argument as above."""
    files.delete_tree(paths.join(prefix, CANCELLED))
