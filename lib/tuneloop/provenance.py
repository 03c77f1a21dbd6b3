"""Provenance of a result: commit, code hash, library versions and host.

The values are collected once per process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from tuneloop import resources
from tuneloop.import_closure import import_closure, named_templates
from tuneloop.settings.environment import read_settings

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
"""Libraries recorded with their version in every record; uninstalled ones are omitted."""

"""Environment variable of an image, which has no repository: its commit, or `COMMIT-dirty`."""


@functools.cache
def code_identity(module: str, lock: str) -> str:
    """Compute the identity of the code that a stage runs on this machine.

    On a cluster, the image digest identifies the code instead.

    Args:
        module: dotted name of the stage's module.
        lock: path of the stage's lock file in a checkout.

    Returns:
        sha256 over the module, all modules of this project that it and the stage contract can
        import, the templates that these name, the entry point of `jobs`, and the lock file.
    """
    modules = set(import_closure(module, "tuneloop.stages.lifecycle.contract").values())
    templates = {path for file in modules for path in named_templates(file)}
    entry_point = resources.code_folder() / "jobs" / "__main__.py"
    return _digest({*modules, *templates, entry_point, resources.data_path(lock)})


@functools.cache
def _package_identity() -> str:
    """Return the sha256 over all code of the project, which records hold next to the commit."""
    package, jobs = resources.package_folder(), resources.code_folder() / "jobs"
    return _digest({*package.rglob("*.py"), *package.rglob("*.j2"), *jobs.glob("*.py")})


def _digest(files: set[Path]) -> str:
    """Hash project-relative names and contents, so that the install location has no effect."""
    digest = hashlib.sha256()
    for name, path in sorted((_project_name(path), path) for path in files):
        digest.update(f"{name}\0".encode())
        digest.update(_file_digest(path))
    return digest.hexdigest()


@functools.cache
def _file_digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _project_name(path: Path) -> str:
    for folder in (resources.package_folder().parent, resources.code_folder()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix().removeprefix("tuneloop/_data/")
    return path.name


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(resources.code_folder()), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit and whether files differ from it; (None, None) if it is unknown."""
    if resources.is_checkout() and (commit := _git("rev-parse", "HEAD")):
        status = _git("status", "--porcelain", "--untracked-files=no")
        return commit, None if status is None else bool(status)
    built_from = read_settings().git_commit or ""
    commit = built_from.removesuffix("-dirty")
    return (commit, commit != built_from) if commit else (None, None)


@functools.cache
def gather() -> dict[str, Any]:
    """Collect the provenance of this process: code, versions and host.

    Returns:
        git_commit (None outside a repository and an image), git_dirty, code_sha256, image_digest
        (None unless TUNELOOP_IMAGE_DIGEST is set), python, platform, cpus, and libraries (name ->
        version).
    """
    commit, is_dirty = _commit()
    return {
        "git_commit": commit,
        "git_dirty": is_dirty,
        "code_sha256": _package_identity(),
        "image_digest": read_settings().image_digest,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": versions_of(LIBRARIES),
    }


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of these packages that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
