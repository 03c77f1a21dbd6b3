"""What goes wrong with files and objects, as one sentence with the URL in it.

One rule: every error of a file system or an object store is passing (trying again can help), a
refusal, or for good. fsspec's implementations differ in what they raise; their classes are known
here by name, so that none of them has to be imported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any

from tuneloop.errors import PermissionDenied, SpecError, Transient, TuneloopError, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_DENIED_STATUSES = {401, 403}
_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_PASSING_CLASSES = {
    "aiohttp.client_exceptions.ClientError",  # a broken connection, a body cut short
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.parsers.ResponseParserError",
    "gcsfs.retry.ChecksumError",
    "requests.exceptions.RequestException",
}
_NO_CREDENTIALS = {
    "botocore.exceptions.NoCredentialsError",
    "google.auth.exceptions.GoogleAuthError",
}
_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs"}
_TENSORSTORE_CODE = re.compile(r"\[os_error_code='(\d+)'\]")


@contextlib.contextmanager
def sentences(url: str, verb: str) -> Iterator[None]:
    """Turn what a file system raises into one sentence with the URL in it.

    FileNotFoundError on reading and FileExistsError pass through: callers know what they mean.

    Args:
        url: what the block works on.
        verb: `read` or `written`.
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


def refusal(error: Exception, place: str) -> Exception | None:
    """The sentence for a full or closed disk that another library ran into.

    Orbax writes on its own, through tensorstore, whose errors name the code as text.

    Returns:
        Unavailable or PermissionDenied; None if the error is about something else.
    """
    code = error.errno if isinstance(error, OSError) else None
    if found := _TENSORSTORE_CODE.search(str(error)):
        code = int(found[1])
    if code not in _FULL | _DENIED:
        return None
    return _sentence_of(OSError(code, os.strerror(code)), place, "written")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed in a moment."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = _status(error)
    return status in _PASSING_STATUSES if status else bool(_classes(error) & _PASSING_CLASSES)


def _sentence_of(e: Exception, url: str, verb: str) -> Exception:
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
    return Unavailable(f"{url}: cannot be {verb}: {reason}; mend the storage, then run again")


def _is_denied(e: Exception, code: int | None) -> bool:
    if code in _DENIED or isinstance(e, PermissionError) or _classes(e) & _NO_CREDENTIALS:
        return True
    # gcsfs says 403 in words alone.
    return _status(e) in _DENIED_STATUSES or str(e).startswith("Forbidden: ")


def _words(e: BaseException) -> str:
    """What an error says, in one line, without the page of HTML that a proxy may have sent."""
    said = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    return " ".join(said.split())[:200] or type(e).__name__


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error; s3fs hangs the server's answer behind its own."""
    answer: Any = getattr(error.__cause__ or error, "response", None)
    found = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(str(found)) if str(found).isdecimal() else None


def _classes(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _is_of_a_library(error: BaseException) -> bool:
    # gcsfs answers what it cannot make sense of with a plain ValueError.
    return type(error).__module__.partition(".")[0] in _LIBRARIES or str(error).startswith(
        "Bad Request: "
    )
