"""URLs and paths of stored files: joining and making absolute."""

from __future__ import annotations

from pathlib import Path


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL or local path."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(url: str) -> str:
    """Make a local path absolute, so that a process elsewhere finds it; other URLs stay."""
    if "://" in url:
        return url
    return str(Path(url).absolute())
