"""Damage one file below a folder, in each of the ways that files are damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

KINDS = ("flip", "truncate", "swap", "delete", "link")


def corrupt(
    root: Path, path: str, kind: str, draw: random.Random, others: Sequence[str]
) -> set[str]:
    """Damage a file.

    Args:
        root: the folder.
        path: the file, relative to it.
        kind: one of KINDS; an empty file, which cannot be cut, is deleted.
        draw: chooses the bit, the length and the other file.
        others: files to swap it with, relative to the folder.

    Returns:
        The paths of the files whose content is another one now.
    """
    file = root / path
    data = file.read_bytes()
    if not data and kind in ("flip", "truncate"):
        kind = "delete"
    if kind == "flip":
        at = draw.randrange(len(data))
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :])
    elif kind == "truncate":
        # A line feed at the end is not content: a JSON file without it is the same.
        end = len(data) - 1 if data.endswith(b"\n") else len(data)
        file.write_bytes(data[: draw.randrange(end)] if end else b"")
    elif kind == "swap":
        different = [each for each in others if (root / each).read_bytes() != data]
        other = draw.choice(different)
        file.write_bytes((root / other).read_bytes())
        (root / other).write_bytes(data)
        return {path, other}
    else:
        file.unlink()
        if kind == "link":
            target = draw.choice(["/etc/passwd", "/", str(root / draw.choice(others)), "gone"])
            os.symlink(target, file)
    return {path}
