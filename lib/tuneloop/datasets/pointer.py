"""Paths into a trace's meta, as filters of a dataset write them.

One rule: what begins with `/` is a JSON Pointer (RFC 6901); anything else is the name of a key at
the top, dots and all.
"""

from __future__ import annotations

import re

_INDEX = re.compile("0|[1-9][0-9]*")
_BROKEN_ESCAPE = re.compile("~(?![01])")


def pointer_tokens(path: str) -> tuple[str, ...]:
    """Cut a path into keys and indices.

    Raises:
        ValueError: a `~` is followed by neither 0 nor 1.
    """
    if not path.startswith("/"):
        return (path,)
    if _BROKEN_ESCAPE.search(path):
        raise ValueError("is no JSON Pointer, expected ~ to be written ~0 and / in a key ~1")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))


def is_index(token: str) -> bool:
    """Whether it can be a place in a list; of an object it is a key like any other."""
    return bool(_INDEX.fullmatch(token))
