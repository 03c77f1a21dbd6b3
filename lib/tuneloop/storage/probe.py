"""Try whether a prefix keeps the promise that records rely on: an object is created only once."""

from __future__ import annotations

import contextlib
import uuid

from tuneloop.errors import TuneloopError, Unavailable
from tuneloop.storage import files, paths

PATIENCE_SECONDS = 5.0
"""Seconds of retries of the first request; a person waits for the answer."""
_FIRST, _SECOND = b"tuneloop check: first\n", b"tuneloop check: second\n"


def try_create_only(prefix: str) -> str | None:
    """Create a small object, try to create it again with other content, read and delete it.

    Args:
        prefix: URL of a folder or prefix in which the object is created under a random name.

    Returns:
        None, or why the object was left there.

    Raises:
        Unavailable: the storage cannot be written, or the second creation replaced the object.
        TuneloopError: the storage refuses access, or does not answer for `PATIENCE_SECONDS`.
    """
    url = paths.join(prefix, f".tuneloop-check-{uuid.uuid4().hex}")
    # The name is random, so an object that exists comes from a request that was retried.
    with contextlib.suppress(FileExistsError):
        files.create(url, _FIRST, patience_seconds=PATIENCE_SECONDS)
    try:
        _create_again(prefix, url)
    finally:
        left = _delete(url)
    return left


def _create_again(prefix: str, url: str) -> None:
    try:
        files.create(url, _SECOND, patience_seconds=PATIENCE_SECONDS)
    except FileExistsError:
        if files.read(url) == _FIRST:
            return
    raise Unavailable(
        f"{prefix}: a second creation of the same object replaced the first, expected a refusal,"
        " because two attempts of a stage could otherwise overwrite each other's record; use a"
        " store that supports preconditions (ifGenerationMatch of GCS, If-None-Match of S3)"
    )


def _delete(url: str) -> str | None:
    try:
        files.delete(url)
    except TuneloopError as e:
        return str(e)
    return None
