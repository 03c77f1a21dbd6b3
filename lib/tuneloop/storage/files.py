"""The only fsspec calls: read, list, write, create-only publish, verified read.

One rule: a final name appears whole or not at all. Locally a file is written beside its name and
then linked or renamed into place (a plain O_EXCL write can be torn by SIGKILL); object stores make
an object visible when its upload ends, and `mode="create"` sends the precondition of the protocol
(GCS ifGenerationMatch=0, S3 If-None-Match).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from tuneloop.errors import DataError, SpecError, Transient
from tuneloop.storage.errors import is_passing, sentences

_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCK_BYTES = 8 << 20
"""Of a request for a part of an object: long beside the time that a request takes to begin."""
_PATIENCE_SECONDS = 120
"""Beyond the retries of the store's own library; after that the stage ends and is run again."""

_patiently = Retrying(
    retry=retry_if_exception(is_passing),
    stop=stop_after_delay(_PATIENCE_SECONDS),
    wait=wait_random_exponential(multiplier=0.2, max=20),
    reraise=True,
)


def _open_fs(url: str) -> tuple[Any, str]:
    try:
        # A listing that was kept would hide what another process has published since.
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ValueError as e:
        raise SpecError(f"{url}: {e}; use a local path or a URL of a known protocol") from e
    except ImportError as e:
        raise SpecError(f"{url}: {e}") from e
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises
    return fs, path


def _ask(url: str, verb: str, call: Callable[[Any, str], Any]) -> Any:
    """Call a file system; an object store that cannot answer just now is asked again.

    Args:
        url: what it is about.
        verb: `read` or `written`, for the error.
        call: (file system, path in it) -> whatever; doing it twice must do no harm.
    """
    with sentences(url, verb):
        fs, path = _open_fs(url)
        return call(fs, path) if isinstance(fs, LocalFileSystem) else _patiently(call, fs, path)


def exists(url: str) -> bool:
    """Whether there is an object at this URL."""
    return size_bytes(url) is not None


def size_bytes(url: str) -> int | None:
    """Size of the object, None if there is none."""
    # Not fs.isfile, to which every error is a no: a busy store would have lost what it holds.
    try:
        info = _ask(url, "read", lambda fs, path: fs.info(path))
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def list_files(prefix: str) -> list[str]:
    """URLs of all objects below a prefix, sorted; empty if there is no such prefix."""

    def find(fs: Any, path: str) -> list[str]:
        return [fs.unstrip_protocol(name) for name in fs.find(path)]

    try:
        return sorted(_ask(prefix, "read", find))
    except FileNotFoundError:
        return []


def list_folders(prefix: str) -> list[str]:
    """Names of the folders right below a prefix, sorted; empty if there is no such prefix."""
    try:
        found = _ask(prefix, "read", lambda fs, path: fs.ls(path, detail=True))
    except FileNotFoundError:
        return []
    folders = (entry["name"] for entry in found if entry["type"] == "directory")
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in folders)


def read(url: str) -> bytes:
    """Read a whole object; FileNotFoundError if there is none."""
    data: bytes = _ask(url, "read", lambda fs, path: fs.cat_file(path))
    return data


def write(url: str, data: bytes) -> None:
    """Write a whole object, replacing what was there."""

    def put(fs: Any, path: str) -> None:
        if isinstance(fs, LocalFileSystem):
            with _beside(Path(path), data) as temporary:
                os.replace(temporary, path)
        else:
            fs.pipe_file(path, data)

    _ask(url, "written", put)


def create(url: str, data: bytes) -> None:
    """Write a whole object that must not exist yet; FileExistsError if it does.

    Of an object store it is also raised where the object is ours and the answer was lost: use
    `publish`, which looks.
    """

    def put(fs: Any, path: str) -> None:
        if isinstance(fs, LocalFileSystem):
            with _beside(Path(path), data) as temporary:
                os.link(temporary, path)
        else:
            fs.pipe_file(path, data, mode="create")

    _ask(url, "written", put)


def _mkdir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:  # would read as "the object is there already" further up
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed") from e


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
    """Create-only write that takes its own repetition for success.

    Returns:
        True if the object at the URL now holds `data` (also when a lost acknowledgement or an
        earlier attempt had already put it there), False if it holds something else.
    """
    try:
        create(url, data)
    except FileExistsError:
        return read(url) == data
    return True


def make_folder(path: str) -> None:
    """Make a local folder and those above it."""
    with sentences(path, "written"):
        _mkdir(Path(path))


@contextlib.contextmanager
def exclusive(url: str, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock while the block runs, so that one process at a time works below a local prefix.

    The kernel releases it when its holder dies, however it dies. Object stores have no such lock,
    and nothing is held there: on a cluster the Job controller starts one pod at a time.

    Args:
        url: the lock's own name.
        should_stop: asked while another process holds it; true ends the waiting.

    Raises:
        Transient: stopped while waiting.
    """
    fs, path = _open_fs(url)
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
    """Remove everything below a prefix, if there is anything."""

    def remove(fs: Any, path: str) -> None:
        # An attempt before may have got half way.
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    _ask(prefix, "written", remove)


@dataclass(frozen=True)
class Written:
    """What a finished `Writer` has put down."""

    size_bytes: int
    sha256: str


class Writer:
    """Stream to an object under `attempts/`; counts bytes and hashes them on the way.

    A context manager: `close` says what was written, leaving without it abandons the file. For an
    object store the file is written here first and sent as a whole, as often as it takes: an upload
    that goes on while it is made cannot be begun anew.
    """

    def __init__(self, url: str) -> None:
        """Open the object for writing; nobody reads it before a record names it."""
        self.url = url
        self._buffer = bytearray()
        self._size_bytes = 0
        self._sha256 = hashlib.sha256()
        with sentences(url, "written"):
            fs, path = _open_fs(url)
            self._is_local = isinstance(fs, LocalFileSystem)
            if self._is_local:
                _mkdir(Path(path).parent)
                self._file: IO[bytes] = open(path, "wb")
            else:
                self._file = tempfile.NamedTemporaryFile(prefix="tuneloop-")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        # A failed attempt's file is never named by a record; why it failed is already on its way.
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._buffer += data
        if len(self._buffer) >= _BLOCK_BYTES:
            self._flush()

    def close(self) -> Written:
        """Flush and close; a full disk may show only here."""
        self._flush()
        with sentences(self.url, "written"):
            self._file.flush()
            if self._is_local:  # a record that survives a power cut must not name a torn file
                os.fsync(self._file.fileno())
            else:
                _ask(self.url, "written", self._send)
            self._file.close()
        return Written(self._size_bytes, self._sha256.hexdigest())

    def _send(self, fs: Any, path: str) -> None:
        try:
            fs.put_file(self._file.name, path)
        except FileNotFoundError:
            # The bucket is missing, or the answer to the last part was lost, and asked for it again
            # the store knew no such upload any more. Only the second is mended by a new one.
            fs.put_file(self._file.name, path)

    def _flush(self) -> None:
        self._sha256.update(self._buffer)
        self._size_bytes += len(self._buffer)
        with sentences(self.url, "written"):
            self._file.write(self._buffer)
        self._buffer = bytearray()


def read_range(url: str, start: int, stop: int) -> bytes:
    """Read some bytes of an object; FileNotFoundError if there is none."""
    data: bytes = _ask(url, "read", lambda fs, path: fs.cat_file(path, start=start, end=stop))
    return data


def iter_blocks(url: str) -> Iterator[bytes]:
    """Stream an object; FileNotFoundError at the first block if there is none."""
    fs, path = _open_fs(url)
    if isinstance(fs, LocalFileSystem):
        with sentences(url, "read"), open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    # Part by part, so that a connection that breaks costs a part and not the stream.
    size = size_bytes(url)
    if size is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    for start in range(0, size, _REMOTE_BLOCK_BYTES):
        stop = min(start + _REMOTE_BLOCK_BYTES, size)
        block = read_range(url, start, stop)
        if len(block) != stop - start:
            raise Transient(f"{url}: bytes {start} to {stop} came as {len(block)} bytes; run again")
        yield block


def read_verified(url: str, *, expected_bytes: int, expected_sha256: str) -> bytes:
    """Read an object whose size and digest are known.

    Raises:
        DataError: the object is missing, torn or another than the one recorded.
    """
    return b"".join(iter_verified(url, expected_bytes, expected_sha256))


def iter_verified(url: str, expected_bytes: int, expected_sha256: str) -> Iterator[bytes]:
    """Stream an object in blocks; the last block is followed by the check of size and digest.

    Whoever consumes it to the end has read what was recorded; a consumer must publish nothing
    before the end.
    """
    try:
        yield from verified(iter_blocks(url), url, expected_bytes, expected_sha256)
    except FileNotFoundError as e:
        raise DataError(f"{url}: missing, but a record names it; restore it or rebuild") from e


def verified(
    blocks: Iterator[bytes], url: str, expected_bytes: int, expected_sha256: str
) -> Iterator[bytes]:
    """The same blocks, wherever they come from, and the check of size and digest behind them."""
    sha256, count = hashlib.sha256(), 0
    for block in blocks:
        sha256.update(block)
        count += len(block)
        yield block
    if count != expected_bytes:
        raise DataError(
            f"{url}: holds {count} bytes, expected {expected_bytes}; it was changed after it was"
            " recorded, restore or rebuild it"
        )
    if sha256.hexdigest() != expected_sha256:
        raise DataError(
            f"{url}: sha256 is {sha256.hexdigest()[:12]}…, expected {expected_sha256[:12]}…; it was"
            " changed after it was recorded, restore or rebuild it"
        )
