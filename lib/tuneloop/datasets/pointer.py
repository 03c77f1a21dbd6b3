"""Paths into a trace's meta, used by dataset filters.

A path that begins with `/` is a JSON Pointer (RFC 6901). Any other path is the name of one
top-level key, which may contain dots.
"""

from __future__ import annotations

import re

_INDEX = re.compile("0|[1-9][0-9]*")
_BROKEN_ESCAPE = re.compile("~(?![01])")


def pointer_tokens(path: str) -> tuple[str, ...]:
    """Split a path into keys and indices.

    Raises:
        ValueError: a `~` is not followed by 0 or 1.
    """
    if not path.startswith("/"):
        return (path,)
    if _BROKEN_ESCAPE.search(path):
        raise ValueError("is not a JSON Pointer, expected ~0 for ~ and ~1 for / within a key")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))


def is_index(token: str) -> bool:
    """Return whether a token can be an index of a list; in an object it is always a key."""
    return bool(_INDEX.fullmatch(token))
