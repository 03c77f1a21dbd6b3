"""Build the pinned programs for the tests of workflows: act, actionlint and gojq.

Only tools/go.mod contains their versions. `python -m tests.ci.tools` builds them in advance.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.gotools import GoTools

MODULE = Path(__file__).with_suffix("")
"""The Go module that pins the programs: `tools/`, next to this file."""

PROGRAMS = ("act", "actionlint", "gojq")


def ensure_tools() -> Path:
    """Return the folder with all PROGRAMS; build them if needed (a minute on two cores).

    Without Go, the test is skipped, but under CI it fails, so that CI always runs it.
    """
    if shutil.which("go") is None:
        give_up("Go is missing, which builds act and actionlint; install the Go of tools/go.mod")
    return GoTools(MODULE, "ci-tools").ensure(_finish)


def ensure_shellcheck() -> None:
    """Skip or fail without shellcheck, because actionlint checks scripts only with it."""
    if shutil.which("shellcheck") is None:
        give_up("shellcheck is missing; run tests/debian-packages")


def give_up(why: str) -> None:
    """Skip, or fail under CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI always runs these tests: {why}")
    pytest.skip(why)


def _finish(building: Path) -> None:
    assert sorted(os.listdir(building)) == sorted(PROGRAMS)


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_tools()}\n")
