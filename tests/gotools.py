"""Build the Go programs that tests run, once per set of pinned versions, and cache them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


class GoFailed(Exception):
    """A Go command failed; the message ends with the last lines of its output."""


@dataclass(frozen=True)
class GoTools:
    """The programs of a Go module, from the `tool` lines of its go.mod."""

    module: Path
    """Folder of its go.mod and go.sum."""
    name: str
    """Name of the programs' folder in the cache."""
    linker_flags: str = "-s -w"

    def ensure(self, finish: Callable[[Path], None]) -> Path:
        """Return the folder of all programs; builds them if the cache has none for these versions.

        Args:
            finish: called with the folder of a new build before it gets its final name.

        Raises:
            GoFailed: the build failed.
        """
        target = self._cache_folder() / self._cache_key()
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not target.is_dir():
                    self._build(target, finish)
        return target

    def go(self, *arguments: str) -> str:
        """Run a Go command in the module; returns its output."""
        done = subprocess.run(
            ["go", *arguments],
            cwd=self.module,
            env={**os.environ, **SETTINGS},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr[-4000:]
            raise GoFailed(f"go {arguments[0]} failed in {self.module}:\n{said}")
        return done.stdout

    def _build(self, target: Path, finish: Callable[[Path], None]) -> None:
        building = target.with_name(f"{target.name}.building")
        # Delete what a killed build left. This process has the lock, so no other build is running.
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        self.go("build", "-trimpath", "-ldflags", self.linker_flags, "-o", f"{building}/", "tool")
        finish(building)
        building.rename(target)

    def _cache_folder(self) -> Path:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "tuneloop" / self.name

    def _cache_key(self) -> str:
        go = self.go("env", "GOVERSION", "GOOS", "GOARCH").encode()
        pins = [(self.module / name).read_bytes() for name in ("go.mod", "go.sum")]
        parts = [go, *pins, self.linker_flags.encode()]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
