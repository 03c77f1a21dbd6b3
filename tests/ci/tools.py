"""Programs that the tests of workflows run: act, actionlint and gojq, built once, pinned.

Rule: versions stand in tools/go.mod and nowhere else. `python -m tests.ci.tools` builds beforehand.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.gotools import GoTools

MODULE = Path(__file__).with_suffix("")
"""The Go module that pins them: `tools/`, beside this file."""

PROGRAMS = ("act", "actionlint", "gojq")


def ensure_tools() -> Path:
    """The folder with all PROGRAMS, built where the cache is empty (a minute on two cores).

    Without Go the test skips, and under CI it fails: there these tests always run.
    """
    if shutil.which("go") is None:
        give_up("no Go to build act and actionlint with: install the Go that tools/go.mod names")
    return GoTools(MODULE, "ci-tools").ensure(_finish)


def ensure_shellcheck() -> None:
    """Actionlint looks into scripts only where it finds shellcheck."""
    if shutil.which("shellcheck") is None:
        give_up("no shellcheck: run tests/debian-packages")


def give_up(why: str) -> None:
    """Skip, or fail under CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI always runs these tests: {why}")
    pytest.skip(why)


def _finish(building: Path) -> None:
    assert sorted(os.listdir(building)) == sorted(PROGRAMS)


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_tools()}\n")
