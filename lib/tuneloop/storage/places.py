"""Open places: find the file system of a URL or path, and let pipes be read as files.

A pipe gives its bytes once, but a file of a user is read several times: to check it first, or for
its digest. A verb that reads a file of the user passes its place through `given`, which keeps the
bytes of a pipe in a temporary file. All readers then find this copy under the name that the user
gave, also in error messages. Other reads refuse what is not a regular file, since a pipe among the
artifacts would block them for ever.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import sys
import tempfile
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tuneloop.errors import DataError, SpecError, Unavailable, UsageError
from tuneloop.settings.limits import input_limits, raise_with, variable
from tuneloop.storage import paths
from tuneloop.storage.errors import sentences

STDIN = "-"
_BLOCK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_copies: dict[str, str] = {}
"""Absolute place of a pipe that the user gave -> path of the temporary file with its bytes."""


def open_place(url: str) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the path in it.

    Raises:
        UsageError: it is no normal place (`paths.normal`), or its package is not installed.
        SpecError: the protocol is unknown.
    """
    url = paths.normal(url)
    if _is_local(url):
        # Not url_to_fs, which reads `::` as a chain of file systems.
        fs = LocalFileSystem()
        return fs, fs._strip_protocol(url)
    try:
        # A cached listing would hide objects that another process has published since.
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ValueError as e:
        raise SpecError(f"{url}: {e}; use a local path or a URL of a known protocol") from e
    except ImportError as e:
        package = getattr(e.__cause__, "name", None) or e.name
        raise UsageError(
            f"{url}: Python package {package} is not installed; install it, or use an image of"
            " `make image`, which contains the packages of gs:// and s3://"
        ) from e
    # gcsfs logs a traceback of every error that it also raises.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return fs, path


def given(url: str) -> str:
    """Let a file that the user named be read several times, also if it is a pipe or `-`.

    Args:
        url: place of the file; `-` is standard input.

    Returns:
        The place, unchanged. A pipe has been read to its end.

    Raises:
        UsageError: it is empty, or is a socket or a device.
    """
    key = paths.absolute(url)
    _copies.pop(key, None)
    if url == STDIN:
        if sys.stdin is None:
            raise UsageError(f"{url}: standard input is closed, expected a file; name a file")
        _copies[key] = _copy_of(sys.stdin.buffer, url)
    elif _is_local(url):
        _, path = open_place(url)
        if _kind(path) == stat.S_IFIFO:
            with sentences(url, "read"), open(path, "rb") as pipe:
                _copies[key] = _copy_of(pipe, url)
        else:
            regular(url, path)
    return url


def regular(url: str, path: str) -> str:
    """Return the path to read a local place at.

    Args:
        url: the place, as it was asked for.
        path: its local path.

    Raises:
        UsageError: it is a pipe that was not passed through `given`, a socket or a device.
    """
    if _copies and (copy := _copies.get(paths.absolute(url))) is not None:
        return copy
    if (found := _KINDS.get(_kind(path) or 0)) is not None:
        raise UsageError(
            f"{url}: is {found}, expected a regular file; write the data to a file first"
        )
    return path


def _kind(path: str) -> int | None:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):  # the reader describes the problem
        return None


def _is_local(url: str) -> bool:
    return not paths.is_url(url) or url.startswith("file://")


def _copy_of(source: IO[bytes], url: str) -> str:
    copy = tempfile.NamedTemporaryFile(prefix="tuneloop-")
    atexit.register(copy.close)  # this also keeps the file until then
    try:
        with sentences(url, "read"):
            _copy(source, copy, url)
            copy.flush()
    except BaseException:
        copy.close()  # at once, since it may fill the disk
        raise
    return copy.name


def _copy(source: IO[bytes], copy: IO[bytes], url: str) -> None:
    """Copy a pipe within the limits; the disk of temporary files never gets full.

    Raises:
        DataError: the pipe holds more than the limit.
        Unavailable: the disk has too little space for it.
    """
    limits, held, folder = input_limits(), 0, tempfile.gettempdir()
    while block := source.read(_BLOCK_BYTES):
        held += len(block)
        if held > limits.spool_bytes:
            raise DataError(
                f"{url}: holds more than {limits.spool_bytes:,} bytes, expected fewer from a pipe,"
                " which is kept in a temporary file; write the data to a file and name it,"
                f" {raise_with('spool_bytes')}"
            )
        free = shutil.disk_usage(folder).free
        # A small pipe is taken by a small disk too; if it does not fit, the write fails.
        if held > _BLOCK_BYTES and free < limits.spool_free_bytes + len(block):
            raise Unavailable(
                f"{url}: {folder} has {free:,} free bytes left for the temporary file of a pipe,"
                f" expected more than {limits.spool_free_bytes:,}; write the data to a file and"
                " name it, set TMPDIR to a larger disk, or leave less free with the variable"
                f" {variable('spool_free_bytes')}"
            )
        copy.write(block)
