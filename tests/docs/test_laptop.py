"""docs/tutorial/laptop.md, run as it is written."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from tests.docs.blocks import shell_blocks
from tests.docs.checkout import copy_checkout

PORT = "export PORT=8000\n"


def test_every_step_of_the_laptop_page_works_as_written(tmp_path: Path) -> None:
    script = "".join(shell_blocks("tutorial/laptop.md"))
    assert script.startswith("make loop\n") and PORT in script
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        script = script.replace(PORT, f"export PORT={free.getsockname()[1]}\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=copy_checkout(tmp_path / "tuneloop"),
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
