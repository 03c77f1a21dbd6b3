"""Local, verified copies of stored files, for code that needs a path, such as a memory map."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.storage.errors import sentences
from tuneloop.storage.places import regular


def verified_path(
    url: str, *, size_bytes: int, sha256: str, should_stop: Callable[[], bool] = lambda: False
) -> Path:
    """Return a local path with the content of a file; its size and digest are checked.

    A file on a local disk is used where it is. One of an object store is downloaded to a folder
    of this user below TMPDIR, once for all processes of a host. The copy is named by its digest
    and stays there, so that later runs on the host find it.

    Args:
        url: URL or path of the file.
        size_bytes: its recorded size.
        sha256: its recorded digest.
        should_stop: called while another process downloads the file; returning True ends the wait.

    Raises:
        DataError: the file is missing, incomplete or changed.
        Transient: `should_stop` returned True while waiting.
    """
    local = files.local_path(url)
    if local is not None:
        _read_through(local, size_bytes, sha256)
        return Path(local)
    folder = Path(tempfile.gettempdir()) / f"tuneloop-{os.getuid()}"
    with sentences(str(folder), "written"):
        folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / sha256
    if not _holds(copy, size_bytes, sha256):
        with files.exclusive(f"{copy}.lock", should_stop):
            if not _holds(copy, size_bytes, sha256):
                _download(url, copy, size_bytes, sha256)
    return copy


def _read_through(url: str, size_bytes: int, sha256: str) -> None:
    for _ in files.iter_verified(url, size_bytes, sha256):
        pass


def _holds(copy: Path, size_bytes: int, sha256: str) -> bool:
    try:
        _read_through(str(copy), size_bytes, sha256)
    except DataError:
        return False
    return True


def _download(url: str, copy: Path, size_bytes: int, sha256: str) -> None:
    part = copy.with_name(f".{sha256}.{uuid.uuid4().hex}.tmp")
    try:
        with sentences(str(part), "written"), part.open("xb") as file:
            for block in files.iter_verified(url, size_bytes, sha256):
                file.write(block)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def readable_path(url: str) -> Iterator[str]:
    """Yield a local path with the content of a file, for readers that jump within it.

    A file of an object store is downloaded to a temporary file, which is deleted afterwards.

    Args:
        url: URL or path of the file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    local = files.local_path(url)
    if local is not None:
        yield regular(url, local)
        return
    with tempfile.NamedTemporaryFile(prefix="tuneloop-") as copy:
        with sentences(copy.name, "written"):
            for block in files.iter_blocks(url):
                copy.write(block)
            copy.flush()
        yield copy.name
