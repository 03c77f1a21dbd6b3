"""Programs that the tests of workflows run: act, actionlint and gojq, built once, pinned.

Rule: versions stand in tools/go.mod and nowhere else. `python -m tests.ci.tools` builds beforehand.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

MODULE = Path(__file__).with_suffix("")
"""The Go module that pins them: `tools/`, beside this file."""

PROGRAMS = ("act", "actionlint", "gojq")


def ensure_tools() -> Path:
    """The folder with all PROGRAMS, built where the cache is empty (a minute on two cores).

    Without Go the test skips, and under CI it fails: there these tests always run.
    """
    if shutil.which("go") is None:
        give_up("no Go to build act and actionlint with: install the Go that tools/go.mod names")
    target = _cache_folder() / _cache_key()
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _build(target)
    return target


def ensure_shellcheck() -> None:
    """Actionlint looks into scripts only where it finds shellcheck."""
    if shutil.which("shellcheck") is None:
        give_up("no shellcheck: run tests/debian-packages")


def give_up(why: str) -> None:
    """Skip, or fail under CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI always runs these tests: {why}")
    pytest.skip(why)


def _build(target: Path) -> None:
    building = target.with_name(f"{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a build that was killed: we hold the lock
    building.mkdir()
    _go("build", "-trimpath", "-ldflags", "-s -w", "-o", f"{building}/", "tool")
    assert sorted(os.listdir(building)) == sorted(PROGRAMS)
    building.rename(target)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tuneloop" / "ci-tools"


def _cache_key() -> str:
    go = _go("env", "GOVERSION", "GOOS", "GOARCH").encode()
    pins = [(MODULE / name).read_bytes() for name in ("go.mod", "go.sum")]
    return hashlib.sha256(b"\0".join([go, *pins])).hexdigest()[:16]


def _go(*arguments: str) -> str:
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    done = subprocess.run(
        ["go", *arguments],
        cwd=MODULE,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"go {arguments[0]} failed in {MODULE}:\n{done.stderr[-4000:]}"
    return done.stdout


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_tools()}\n")
