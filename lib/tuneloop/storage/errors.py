"""Translate errors of file systems and object stores into one sentence with the URL.

Every error is classified as transient (a retry can help), denied, or permanent. The
implementations of fsspec raise different classes. These classes are listed by name, so that none
of their libraries has to be imported.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from tuneloop.errors import PermissionDenied, SpecError, Transient, TuneloopError, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_DENIED_STATUSES = {401, 403}
_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_PASSING_CLASSES = {
    "aiohttp.client_exceptions.ClientError",  # broken connections and truncated bodies
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.parsers.ResponseParserError",
    "gcsfs.retry.ChecksumError",
    "httpx.TransportError",
    "requests.exceptions.RequestException",
}
_NO_CREDENTIALS = {
    "botocore.exceptions.NoCredentialsError",
    "google.auth.exceptions.GoogleAuthError",
}
_LIBRARIES = {
    *("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "httpx", "huggingface_hub"),
    *("requests", "s3fs"),
}


@contextlib.contextmanager
def sentences(url: str, verb: str) -> Iterator[None]:
    """Translate the errors that a file system raises in a block into one sentence with the URL.

    FileExistsError, and FileNotFoundError while reading, are not translated, because callers
    handle them.

    Args:
        url: URL or path that the block reads or writes.
        verb: `read` or `written`, used in error messages.
    """
    try:
        yield
    except (FileExistsError, TuneloopError):
        raise
    except FileNotFoundError as e:
        if verb == "read":
            raise
        raise Unavailable(f"{url}: cannot be written: {e.strerror or e}; make the folder") from e
    except (NotADirectoryError, IsADirectoryError) as e:
        raise SpecError(f"{url}: cannot be {verb}: {e.strerror or e}; use another URL") from e
    except Exception as e:
        if is_passing(e):
            raise Transient(f"{url}: cannot be {verb}: {_words(e)}; run again") from e
        if isinstance(e, OSError) or _is_of_a_library(e):
            raise _sentence_of(e, url, verb) from e
        raise


def refusal(error: Exception, place: str) -> TuneloopError | None:
    """Translate another library's error about a full or inaccessible disk.

    Returns:
        Unavailable or PermissionDenied, or None if the error has another cause.
    """
    code = error.errno if isinstance(error, OSError) else None
    if code not in _FULL | _DENIED:
        return None
    return _sentence_of(OSError(code, os.strerror(code)), place, "written")


def is_passing(error: BaseException) -> bool:
    """Return whether an error is transient, so that a retry of the same request can succeed."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = _status(error)
    return status in _PASSING_STATUSES if status else bool(_classes(error) & _PASSING_CLASSES)


def _sentence_of(e: Exception, url: str, verb: str) -> TuneloopError:
    reason, code = _words(e), e.errno if isinstance(e, OSError) else None
    if code in _FULL:
        return Unavailable(
            f"{url}: cannot be {verb}: {reason}; free some space, then run again to continue"
        )
    if _is_denied(e, code):
        return PermissionDenied(
            f"{url}: cannot be {verb}: {reason}; grant this user access or use another"
            " artifacts URL"
        )
    return Unavailable(f"{url}: cannot be {verb}: {reason}; fix the storage, then run again")


def _is_denied(e: Exception, code: int | None) -> bool:
    if code in _DENIED or isinstance(e, PermissionError) or _classes(e) & _NO_CREDENTIALS:
        return True
    # gcsfs reports status 403 only in the text of its error.
    return _status(e) in _DENIED_STATUSES or str(e).startswith("Forbidden: ")


def _words(e: BaseException) -> str:
    """Return an error's message in one line, cut to 200 characters.

    Proxies may answer with a whole HTML page.
    """
    said = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    return " ".join(said.split())[:200] or type(e).__name__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, or None; s3fs keeps the server's answer as the cause."""
    answer: Any = getattr(error.__cause__ or error, "response", None)
    found = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif found is None:
        found = getattr(answer, "status_code", None)
    return int(str(found)) if str(found).isdecimal() else None


def _classes(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _is_of_a_library(error: BaseException) -> bool:
    # gcsfs raises a plain ValueError for requests that it rejects as malformed.
    return type(error).__module__.partition(".")[0] in _LIBRARIES or str(error).startswith(
        "Bad Request: "
    )
