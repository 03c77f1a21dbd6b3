"""Programs in Go that tests run: built once from the module that pins them, then kept."""

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
    """Go did not do what it was asked; the message ends with the tail of what it said."""


@dataclass(frozen=True)
class GoTools:
    """The `tool` lines of a Go module."""

    module: Path
    """Folder of its go.mod and go.sum."""
    name: str
    """Of their folder in the cache."""
    linker_flags: str = "-s -w"

    def ensure(self, finish: Callable[[Path], None]) -> Path:
        """The folder with all programs, built where the cache has none for these pins.

        Args:
            finish: looks over the folder of a new build, before it appears under its name.

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
        """Run Go in the module; what it printed."""
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
        shutil.rmtree(building, ignore_errors=True)  # of a build that was killed: we hold the lock
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
