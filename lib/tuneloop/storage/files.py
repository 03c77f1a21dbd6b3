"""Read, list, write, publish (create only) and verify files; `places` opens their file systems.

An object appears under its final name completely or not at all. A local file is written next to
its final name and then linked or renamed into place, because SIGKILL can leave a plain O_EXCL
write incomplete. Object stores make an object visible when its upload ends. There,
`mode="create"` sends the precondition of the protocol (GCS: ifGenerationMatch=0, S3:
If-None-Match).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from tuneloop.errors import DataError, Transient
from tuneloop.storage.errors import is_passing, sentences
from tuneloop.storage.places import open_place, regular

_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCK_BYTES = 8 << 20
"""Size of one range request; its transfer takes long compared with the latency of a request."""
_PATIENCE_SECONDS = 120
"""Seconds of retries on top of those of the store's own library; then the stage ends as transient.

A stage that ends as transient (exit code 75) is run again.
"""

_patiently = Retrying(
    retry=retry_if_exception(is_passing),
    stop=stop_after_delay(_PATIENCE_SECONDS),
    wait=wait_random_exponential(multiplier=0.2, max=20),
    reraise=True,
)


def ask(
    url: str,
    verb: str,
    call: Callable[[Any, str], Any],
    *,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> Any:
    """Call a file system; retry transient errors of object stores.

    Args:
        url: URL or path of the object.
        verb: `read` or `written`, used in error messages.
        call: (file system, path in it) -> result; it must be safe to repeat.
        patience_seconds: seconds of retries, on top of those of the store's own library.
    """
    with sentences(url, verb):
        fs, path = open_place(url)
        if isinstance(fs, LocalFileSystem):
            return call(fs, regular(url, path) if verb == "read" else path)
        return _patiently.copy(stop=stop_after_delay(patience_seconds))(call, fs, path)


def local_path(url: str) -> str | None:
    """Return the path of a local file or folder, or None if the URL is not local."""
    fs, path = open_place(url)
    return str(path) if isinstance(fs, LocalFileSystem) else None


def exists(url: str) -> bool:
    """Return whether there is an object at this URL."""
    return size_bytes(url) is not None


def size_bytes(url: str) -> int | None:
    """Return the size of the object, or None if there is no object."""
    # Not fs.isfile, which returns False for every error: objects of a busy store would seem lost.
    try:
        info = ask(url, "read", lambda fs, path: fs.info(path))
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def list_files(prefix: str) -> list[str]:
    """Return the sorted URLs of all objects below a prefix; empty if the prefix does not exist."""

    def find(fs: Any, path: str) -> list[str]:
        return [fs.unstrip_protocol(name) for name in fs.find(path)]

    try:
        return sorted(ask(prefix, "read", find))
    except FileNotFoundError:
        return []


def list_below(prefix: str) -> list[str]:
    """Return the sorted paths of all objects below a prefix, relative to it; empty without any."""

    def find(fs: Any, path: str) -> list[str]:
        root = str(fs._strip_protocol(path)).rstrip("/") + "/"
        return [str(name).removeprefix(root) for name in fs.find(path)]

    try:
        return sorted(ask(prefix, "read", find))
    except FileNotFoundError:
        return []


def list_folders(prefix: str) -> list[str]:
    """Return the sorted names of the folders directly below a prefix; empty if there are none."""
    return _names_below(prefix, folders=True)


def list_names(prefix: str) -> list[str]:
    """Return the sorted names of the files directly below a prefix; empty if there are none."""
    return _names_below(prefix, folders=False)


def _names_below(prefix: str, *, folders: bool) -> list[str]:
    try:
        found = ask(prefix, "read", lambda fs, path: fs.ls(path, detail=True))
    except FileNotFoundError:
        return []
    # fsspec lists a symbolic link, such as those of the Hugging Face cache, with the type `other`.
    entries = (entry["name"] for entry in found if (entry["type"] == "directory") == folders)
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in entries)


def read(url: str) -> bytes:
    """Read a whole object; raise FileNotFoundError if there is none."""
    data: bytes = ask(url, "read", lambda fs, path: fs.cat_file(path))
    return data


def write(url: str, data: bytes) -> None:
    """Write a whole object, replacing an existing one."""

    def put(fs: Any, path: str) -> None:
        if isinstance(fs, LocalFileSystem):
            with _beside(Path(path), data) as temporary:
                os.replace(temporary, path)
        else:
            fs.pipe_file(path, data)

    ask(url, "written", put)


def create(url: str, data: bytes, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Write a whole object that must not exist yet; raise FileExistsError if it does.

    With an object store, FileExistsError is also raised if this call wrote the object but its
    acknowledgement was lost and the request was retried. Use `publish`, which compares contents.

    Args:
        url: URL or path of the object.
        data: content.
        patience_seconds: as for `ask`.
    """

    def put(fs: Any, path: str) -> None:
        if isinstance(fs, LocalFileSystem):
            with _beside(Path(path), data) as temporary:
                os.link(temporary, path)
        else:
            fs.pipe_file(path, data, mode="create")

    ask(url, "written", put, patience_seconds=patience_seconds)


def _mkdir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:  # callers would read it as "the object exists already"
        raise NotADirectoryError(errno.ENOTDIR, "a file exists where a folder is needed") from e


@contextlib.contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    _mkdir(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(url: str, data: bytes) -> bool:
    """Create an object unless it exists; succeed if it already holds the same data.

    Returns:
        True if the object at the URL now holds `data`, also if an earlier attempt or a request
        with a lost acknowledgement wrote it. False if the object holds other data.
    """
    try:
        create(url, data)
    except FileExistsError:
        return read(url) == data
    return True


def make_folder(path: str) -> None:
    """Create a local folder and its parents."""
    with sentences(path, "written"):
        _mkdir(Path(path))


@contextlib.contextmanager
def exclusive(url: str, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock while the block runs, so that one process at a time works below a local prefix.

    The kernel releases the lock when the process that holds it dies, for whatever reason. Object
    stores have no such lock, so nothing is locked there: what several attempts may write at the
    same time has a name of its own for each attempt, or is claimed (sft/checkpoint/claim.py).

    Args:
        url: URL of the lock file.
        should_stop: called while another process holds the lock; returning True ends the wait.

    Raises:
        Transient: `should_stop` returned True while waiting.
    """
    fs, path = open_place(url)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    with sentences(url, "written"):
        _mkdir(Path(path).parent)
        lock = FileLock(path)
        try:
            lock.acquire(cancel_check=should_stop)
        except Timeout as e:
            raise Transient(f"{url}: stopped while another process held it; run again") from e
    try:
        yield
    finally:
        lock.release()


def delete_tree(prefix: str) -> None:
    """Delete all objects below a prefix; do nothing if there are none."""

    def remove(fs: Any, path: str) -> None:
        # An earlier attempt may have deleted some of them.
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    ask(prefix, "written", remove)


def delete(url: str) -> None:
    """Delete an object; do nothing if there is none."""

    def remove(fs: Any, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)

    ask(url, "written", remove)


@dataclass(frozen=True)
class Written:
    """Size and digest of the object that a finished `Writer` has written."""

    size_bytes: int
    sha256: str


class Writer:
    """Stream bytes to an object under `attempts/`, counting and hashing them.

    Use it as a context manager. `close` returns what was written; leaving the block without
    calling `close` abandons the file. For an object store, the bytes go to a local temporary file
    first and are then uploaded as a whole, because a streamed upload cannot be retried from the
    start.
    """

    def __init__(self, url: str) -> None:
        """Open the object for writing; readers ignore it until a record names it."""
        self.url = url
        self._buffer = bytearray()
        self._size_bytes = 0
        self._sha256 = hashlib.sha256()
        with sentences(url, "written"):
            fs, path = open_place(url)
            self._is_local = isinstance(fs, LocalFileSystem)
            if self._is_local:
                _mkdir(Path(path).parent)
                self._file: IO[bytes] = open(path, "wb")
            else:
                self._file = tempfile.NamedTemporaryFile(prefix="tuneloop-")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        # No record names the file of a failed attempt, and the exception that caused the failure is
        # already being raised.
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._buffer += data
        if len(self._buffer) >= _BLOCK_BYTES:
            self._flush()

    def close(self) -> Written:
        """Flush and close the object; a full disk may be reported only here."""
        self._flush()
        with sentences(self.url, "written"):
            self._file.flush()
            if self._is_local:  # after a power cut, a record must not name an incomplete file
                os.fsync(self._file.fileno())
            else:
                ask(self.url, "written", self._send)
            self._file.close()
        return Written(self._size_bytes, self._sha256.hexdigest())

    def _send(self, fs: Any, path: str) -> None:
        try:
            fs.put_file(self._file.name, path)
        except FileNotFoundError:
            # Either the bucket is missing, or the answer to the last part was lost and the retried
            # request found the upload already completed. A new upload fixes only the second case.
            fs.put_file(self._file.name, path)

    def _flush(self) -> None:
        self._sha256.update(self._buffer)
        self._size_bytes += len(self._buffer)
        with sentences(self.url, "written"):
            self._file.write(self._buffer)
        self._buffer = bytearray()


def read_range(url: str, start: int, stop: int) -> bytes:
    """Read a range of bytes of an object; raise FileNotFoundError if there is no object."""
    data: bytes = ask(url, "read", lambda fs, path: fs.cat_file(path, start=start, end=stop))
    return data


def iter_blocks(url: str) -> Iterator[bytes]:
    """Stream an object in blocks; raise FileNotFoundError at the first block if there is none."""
    fs, path = open_place(url)
    if isinstance(fs, LocalFileSystem):
        with sentences(url, "read"), open(regular(url, path), "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    # Range by range, so that a broken connection repeats one range and not the whole stream.
    size = size_bytes(url)
    if size is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    for start in range(0, size, _REMOTE_BLOCK_BYTES):
        stop = min(start + _REMOTE_BLOCK_BYTES, size)
        block = read_range(url, start, stop)
        if len(block) != stop - start:
            raise Transient(
                f"{url}: received {len(block)} bytes of the range {start} to {stop}, expected"
                f" {stop - start}; run again"
            )
        yield block


def read_verified(url: str, *, expected_bytes: int, expected_sha256: str) -> bytes:
    """Read an object and check its size and digest.

    Raises:
        DataError: the object is missing, incomplete, or different from the recorded one.
    """
    return b"".join(iter_verified(url, expected_bytes, expected_sha256))


def iter_verified(url: str, expected_bytes: int, expected_sha256: str) -> Iterator[bytes]:
    """Stream an object in blocks and check its size and digest after the last block.

    The data is verified only once the iterator is exhausted, so a consumer must not publish
    anything before that.
    """
    try:
        yield from verified(iter_blocks(url), url, expected_bytes, expected_sha256)
    except FileNotFoundError as e:
        raise DataError(f"{url}: is missing, but a record names it; restore or rebuild it") from e


def verified(
    blocks: Iterator[bytes], url: str, expected_bytes: int, expected_sha256: str
) -> Iterator[bytes]:
    """Yield the blocks unchanged and check their total size and digest at the end.

    Raises:
        DataError: the size or the digest differs from the expected one.
    """
    sha256, count = hashlib.sha256(), 0
    for block in blocks:
        sha256.update(block)
        count += len(block)
        yield block
    if count != expected_bytes:
        raise DataError(
            f"{url}: holds {count} bytes, expected {expected_bytes}, so it was changed after it was"
            " recorded; restore it or rebuild it"
        )
    if sha256.hexdigest() != expected_sha256:
        raise DataError(
            f"{url}: sha256 is {sha256.hexdigest()[:12]}…, expected {expected_sha256[:12]}…, so it"
            " was changed after it was recorded; restore it or rebuild it"
        )
