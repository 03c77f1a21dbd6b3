"""Join URLs and paths of stored files, and make local paths absolute."""

from __future__ import annotations

from pathlib import Path


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL or local path."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(url: str) -> str:
    """Make a local path absolute, so that a process in another folder finds it; keep other URLs."""
    if "://" in url:
        return url
    return str(Path(url).absolute())
