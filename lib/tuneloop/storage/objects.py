"""Work on many objects at once: list them with sizes and times, read them, delete them."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tuneloop.errors import TuneloopError
from tuneloop.storage import files, paths

CONCURRENCY = 32
"""Requests in flight; more gain little, because s3fs holds ten connections by default."""
MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Keys under which the file systems of fsspec report when an object was written."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    name: str
    """Path relative to the listed prefix."""
    size_bytes: int
    modified: datetime | None
    """Time of the last write on the storage's clock; None if the storage does not report it."""


def in_parallel(call: Callable[[T], R], values: Sequence[T]) -> list[R]:
    """Call a function that waits for the storage for each value; results keep the order."""
    if len(values) < 2:
        return [call(value) for value in values]
    with ThreadPoolExecutor(min(CONCURRENCY, len(values))) as pool:
        return list(pool.map(call, values))


def list_objects(prefix: str) -> list[StoredObject]:
    """List all objects below a prefix, sorted by name; empty if there are none."""

    def find(fs: Any, path: str) -> list[StoredObject]:
        base = str(path).rstrip("/") + "/"
        return [
            StoredObject(name[len(base) :], int(info["size"] or 0), _modified(info))
            for name, info in fs.find(path, detail=True).items()
            # A store lists the empty object of a folder that a web console has made, too.
            if name.startswith(base) and len(name) > len(base)
        ]

    try:
        found: list[StoredObject] = files.ask(prefix, "read", find)
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda each: each.name)


def list_stamps(prefix: str) -> dict[str, str]:
    """List the objects directly below a prefix of an object store, with a stamp of each.

    Returns:
        Name -> a text that changes with every write of other content: the store's ETag or
        generation, the size and the time. It is empty if the store reports neither of the two.
    """

    def look(fs: Any, path: str) -> dict[str, str]:
        base = str(path).rstrip("/") + "/"
        return {
            entry["name"][len(base) :]: _stamp(entry)
            for entry in fs.ls(path, detail=True)
            if entry["type"] == "file" and len(entry["name"]) > len(base)
        }

    try:
        found: dict[str, str] = files.ask(prefix, "read", look)
    except FileNotFoundError:
        return {}
    return found


def _stamp(info: dict[str, Any]) -> str:
    marks = [str(info[key]) for key in ("ETag", "etag", "generation") if info.get(key)]
    return " ".join([*marks, str(info["size"]), str(_modified(info))]) if marks else ""


def _modified(info: dict[str, Any]) -> datetime | None:
    for key in MODIFIED_KEYS:
        value = info.get(key)
        with contextlib.suppress(ValueError, OverflowError, OSError):
            if isinstance(value, datetime):
                return value if value.tzinfo else value.replace(tzinfo=UTC)
            if isinstance(value, int | float):
                return datetime.fromtimestamp(value, UTC)
            if isinstance(value, str):
                return datetime.fromisoformat(value)
    return None


def read_small(url: str) -> bytes:
    """Read an object of a few kilobytes in one request.

    Raises:
        FileNotFoundError: there is no object.
    """

    def read(fs: Any, path: str) -> bytes:
        # s3fs would ask for the size first, to read a large object in several parts.
        options = {"max_concurrency": 1} if "s3" in fs.protocol else {}
        data: bytes = fs.cat_file(path, **options)
        return data

    found: bytes = files.ask(url, "read", read)
    return found


def read_many(urls: Sequence[str]) -> list[bytes | None]:
    """Read small objects in parallel, in the order of the URLs; None for one that is missing."""

    def read(url: str) -> bytes | None:
        try:
            return read_small(url)
        except FileNotFoundError:
            return None

    return in_parallel(read, urls)


def delete_objects(prefix: str, names: Iterable[str]) -> None:
    """Delete objects below a prefix, in parallel; one that is missing counts as deleted.

    On a local disk, folders that this leaves empty are removed as well.

    Raises:
        TuneloopError: an object cannot be deleted; the others are deleted.
    """
    chosen = list(names)
    errors: list[TuneloopError] = []

    def delete(fs: Any, path: str) -> None:
        # An earlier attempt, or another process, may have deleted it.
        with contextlib.suppress(FileNotFoundError):
            # Not fs.rm, which reads *, ? and [ in a name as patterns.
            fs.rm_file(path)

    def remove(name: str) -> None:
        try:
            files.ask(paths.join(prefix, name), "written", delete)
        except TuneloopError as e:
            errors.append(e)

    in_parallel(remove, chosen)
    local = files.local_path(prefix)
    if local is not None:
        folders = {parent for name in chosen for parent in Path(name).parents if parent.parts}
        _remove_if_empty(Path(local, folder) for folder in folders)
    if errors:
        raise errors[0]


def remove_empty_folders(prefix: str) -> None:
    """Remove a local folder and those below it, as far as they are empty; buckets have none."""
    local = files.local_path(prefix)
    if local is not None:
        found = [Path(folder) for folder, _, _ in os.walk(local)]
        _remove_if_empty(found)


def _remove_if_empty(folders: Iterable[Path]) -> None:
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with contextlib.suppress(OSError):  # it holds files, or is gone already
            folder.rmdir()


def storage_time(prefix: str) -> datetime | None:
    """Return the time on the storage's clock; None if the storage reports no times.

    An object is written below the prefix and deleted again.
    """
    name = f".clock-{uuid.uuid4().hex}"
    url = paths.join(prefix, name)
    files.write(url, b"")
    try:
        found: datetime | None = files.ask(url, "read", lambda fs, path: _modified(fs.info(path)))
        return found
    finally:
        delete_objects(prefix, [name])
