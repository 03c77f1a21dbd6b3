"""Join URLs and paths of stored files, and make local paths absolute."""

from __future__ import annotations

from pathlib import Path


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL or local path."""
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
    """Make a local path absolute, so that a process in another folder finds it; keep other URLs."""
    if "://" in url:
        return url
    return str(Path(url).absolute())
