"""A fresh copy of the checkout, with an environment that make finds installed already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.builders import REPOSITORY


def copy_checkout(folder: Path) -> Path:
    """Copy the files that git knows or would take; `.venv/bin` starts the copy's own code."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in listed.rstrip("\0").split("\0"):
        source = REPOSITORY / name
        if source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, arguments in (("python", ""), ("tuneloop", "-m tuneloop.cli ")):
        path = programs / name
        path.unlink(missing_ok=True)
        library = f"PYTHONPATH={folder / 'lib'}:{folder}"
        path.write_text(f'#!/bin/sh\n{library} exec {sys.executable} {arguments}"$@"\n')
        path.chmod(0o755)
    (folder / ".venv" / ".train").touch()  # as `make setup` leaves it, newer than the lock
    return folder
