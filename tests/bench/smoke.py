"""Run a script of bench/ with tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.builders import REPOSITORY

FOLDER = REPOSITORY / "bench"


def run_smoke(script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run `bench/<script>.py --smoke`; return its figures, the lines that are JSON.

    The script runs in a process of its own, because the scripts import each other by plain names
    and change the search path.
    """
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--smoke", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found, f"{script}: no figure in {done.stdout[-1000:]}"
    for figure in found:
        assert figure["figure"].startswith(script)
        assert figure["value"] > 0 and figure["rival"] > 0, figure
    return found
