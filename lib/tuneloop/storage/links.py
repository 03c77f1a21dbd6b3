"""Symbolic links in local folders: a reader must not follow one out of the artifacts."""

from __future__ import annotations

import os

from tuneloop.errors import DataError
from tuneloop.storage import files, paths


def refuse_links_out(prefix: str, names: list[str]) -> None:
    """Check that no link leads a reader of files below a prefix out of it.

    Object stores have no links, so nothing is checked there.

    Args:
        prefix: URL of the folder.
        names: paths of files relative to it.

    Raises:
        DataError: a file, or a folder on the way to it, is a link to a place outside.
    """
    local = files.local_path(prefix)
    if local is None:
        return
    root = os.path.realpath(local)
    for name in names:
        target = os.path.realpath(os.path.join(root, name))
        if os.path.commonpath([root, target]) != root:
            raise DataError(
                f"{paths.join(prefix, name)}: is reached through a link to {target}, expected a"
                f" file below {prefix}; replace the link with the file"
            )


def find_links(prefix: str) -> list[str]:
    """Return the paths of all links below a local folder, relative to it, sorted."""
    local = files.local_path(prefix)
    if local is None:
        return []
    found = []
    for folder, folders, names in os.walk(local):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found.append(os.path.relpath(path, local))
    return sorted(found)
