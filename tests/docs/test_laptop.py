"""docs/quickstart-laptop.md, run as it is written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import REPOSITORY
from tests.docs.blocks import shell_blocks

PORT = "export PORT=8000\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that git knows, and an environment that make finds installed already."""
    folder = tmp_path / "tuneloop"
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
    programs.mkdir(parents=True)
    for name, arguments in (("python", ""), ("tuneloop", "-m tuneloop.cli ")):
        path = programs / name
        library = f"PYTHONPATH={folder / 'lib'}"
        path.write_text(f'#!/bin/sh\n{library} exec {sys.executable} {arguments}"$@"\n')
        path.chmod(0o755)
    (folder / ".venv" / ".train").touch()  # as `make setup` leaves it, newer than the lock
    return folder


def test_every_step_of_the_laptop_page_works_as_written(checkout: Path) -> None:
    script = "".join(shell_blocks("quickstart-laptop.md"))
    assert script.startswith("make loop\n") and PORT in script
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        script = script.replace(PORT, f"export PORT={free.getsockname()[1]}\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=checkout,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "# Delta report: improved" in done.stdout
    assert "the gate lets it through" in done.stdout
    assert "mine-v1: 144 traces" in done.stdout
    assert "mine_eval.jsonl: 2 items in 1 categories, no problems" in done.stdout
    last = done.stdout.rsplit("run mine-", 1)[1]
    assert last.count("cached") == 4
