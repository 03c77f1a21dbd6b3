"""The normal form of places (URLs and local paths), and joining them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tuneloop.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_NOWHERE = re.compile(r"(?!file:|memory:)[A-Za-z][A-Za-z0-9+.-]*:/+\s*")
_CHAIN = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*(://.*)?::.*://|(?!file:)[A-Za-z][A-Za-z0-9+.-]*://.*::"
)


_DATA = re.compile(r"data:[A-Za-z0-9/+.;=-]*,")
_READ_ONLY = re.compile(r"(data|ftp|git|github|hf|https?|jar|libarchive|tar|zip)://")
"""Protocols that have no creation of a new object which is refused if the object exists."""


def is_url(place: str) -> bool:
    """Return whether a place begins with a protocol; all others are local paths."""
    return _URL.match(place) is not None


def normal(place: str) -> str:
    """Return the normal form of a place that a user gave; every verb reads places through this.

    In a local path, `~` is expanded, and `::` has no meaning.

    Raises:
        UsageError: it is empty, or a URL without a bucket such as `s3://`, or a chain of file
            systems such as `simplecache::s3://bucket/file`, or holds data instead of naming it, or
            begins with `~` and the user has no home folder.
    """
    if not place.strip():
        raise UsageError(
            f"{place!r}: is an empty place, expected a path or a URL; name one, or leave the option"
            " out, or check the variable that the shell put there"
        )
    if _NOWHERE.fullmatch(place):
        raise UsageError(
            f"{place}: names no bucket or host, expected a URL such as s3://bucket/prefix; add it"
        )
    if _CHAIN.match(place):
        raise UsageError(
            f"{place}: is a chain of file systems, expected one path or URL; give the URL after the"
            " last `::`, or write ./ before a local path"
        )
    if _DATA.match(place):
        raise UsageError(
            f"{place[:40]}: is a URL that holds data, expected one path or URL; write the data to a"
            " file and name it, or write ./ before a local path"
        )
    if is_url(place):
        return place
    expanded = os.path.expanduser(place)
    if expanded.partition("/")[0] == "~":
        raise UsageError(
            f"{place}: this user has no home folder, expected one for ~; set HOME, or give an"
            " absolute path"
        )
    return expanded


def read_only_protocol(place: str) -> str | None:
    """Return the protocol of a URL, such as `hf://`, if records cannot be published over it."""
    found = _READ_ONLY.match(place)
    return found and found[0]


def check_artifacts(place: str) -> None:
    """Check that records can be published at a place, as far as its protocol says.

    Raises:
        UsageError: as for `normal`; or the protocol cannot create an object only once.
    """
    if (protocol := read_only_protocol(normal(place))) is not None:
        raise UsageError(
            f"{place}: artifacts cannot be published over {protocol}, expected a local folder,"
            " gs:// or s3://; name one of them"
        )


def home_folder() -> Path | None:
    """Return the home folder; None if the user has none, such as an unknown uid in a container."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder(env: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder for caches of this user; None if the user has none.

    Args:
        env: environment; `XDG_CACHE_HOME` takes precedence over `~/.cache`.
    """
    # The specification of XDG says that a relative path is to be ignored.
    if os.path.isabs(base := env.get("XDG_CACHE_HOME", "")):
        return Path(base)
    return home / ".cache" if (home := home_folder()) is not None else None


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL or local path.

    Raises:
        UsageError: the URL is empty, which would lead to the root of the file system.
    """
    if not url.strip():
        normal(url)
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def is_below(path: str) -> bool:
    """Return whether a relative path leads to a place below the folder that it is relative to.

    Paths from files are checked with this before they become part of a URL. `::` would be read as
    a chain of file systems.
    """
    if "::" in path or any(char < " " for char in path):
        return False
    return all(part not in ("", ".", "..") for part in path.replace("\\", "/").split("/"))


def below(path: str) -> str:
    """Return the path unchanged if `is_below` accepts it; a validator for fields of stored files.

    Raises:
        ValueError: it leads elsewhere.
    """
    if not is_below(path):
        raise ValueError(
            f"is {path[:60]!r}, which leads out of its folder, expected a path below it"
        )
    return path


def absolute(url: str) -> str:
    """Make a local path absolute, so that a process in another folder finds it; keep other URLs.

    Raises:
        UsageError: as for `normal`.
    """
    url = normal(url)
    return url if is_url(url) else str(Path(url).absolute())
