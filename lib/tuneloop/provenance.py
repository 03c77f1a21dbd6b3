"""Where a result came from: commit, code hash, library versions, host. Gathered once a process."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from tuneloop.errors import UsageError

LIBRARIES = (
    "flax",
    "google-tunix",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pydantic",
    "sentencepiece",
    "tuneloop",
)
"""Whose versions are stamped into every record; those that are not installed are left out."""

_COMMIT = "TUNELOOP_GIT_COMMIT"
"""Set in an image, where there is no repository: the commit it was built from, or COMMIT-dirty."""

_IDENTITY_FILES = ("lib/**/*.py", "lib/**/*.j2", "jobs/**/*.py", "requirements/*.txt")


@functools.cache
def code_identity(checkout: Path) -> str:
    """Sha256 over lib/, jobs/ and the locks of a checkout: names the code that a stage runs.

    On a cluster the image digest takes its place.
    """
    files = sorted({path for glob in _IDENTITY_FILES for path in checkout.glob(glob)})
    if not (checkout / "jobs" / "__main__.py").is_file():
        raise UsageError(
            f"{checkout}: found no jobs/ folder, expected a checkout of tuneloop; change into one"
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(checkout).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit(checkout: Path) -> tuple[str | None, bool | None]:
    """Commit and whether files differed from it; (None, None) where nobody knows."""
    if commit := _git(checkout, "rev-parse", "HEAD"):
        status = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        return commit, None if status is None else bool(status)
    built_from = os.environ.get(_COMMIT, "")
    commit = built_from.removesuffix("-dirty")
    return (commit, commit != built_from) if commit else (None, None)


@functools.cache
def gather(checkout: Path) -> dict[str, Any]:
    """Collect what is worth knowing about this process: code, versions and host.

    Returns:
        git_commit (None outside a repository and an image), git_dirty, code_sha256, image_digest
        (None outside a container that says so), python, platform, cpus, libraries by name.
    """
    commit, is_dirty = _commit(checkout)
    return {
        "git_commit": commit,
        "git_dirty": is_dirty,
        "code_sha256": code_identity(checkout),
        "image_digest": os.environ.get("TUNELOOP_IMAGE_DIGEST"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": _library_versions(),
    }


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
