"""Build the images once, on a Debian made by debootstrap, in a separate buildah storage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.container import RUNC, Image, command, mounted

TAG = "test"
TARGETS = tuple(os.environ.get("TUNELOOP_IMAGES", "base serve train").split())
"""Targets to build; `make check` skips `train`, which takes minutes and has its own CI job."""
MISSING = "no buildah, debootstrap and runc for root; tests/images/debian-packages installs them"


@dataclasses.dataclass(frozen=True)
class Built:
    """The built images, and the location of buildah's storage."""

    storage: Path
    base_image_bytes: int
    planted: str
    """A value that occurs only in the builder's pip configuration."""
    images: dict[str, Image]


def is_able() -> bool:
    """Return whether this machine can build and run images."""
    programs = [shutil.which("buildah"), shutil.which("debootstrap", path="/usr/sbin")]
    return os.geteuid() == 0 and all(programs) and Path(RUNC).is_file()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of targets that are not built."""
    if "train" in TARGETS:
        return
    left = [item for item in items if "images" in item.keywords and _needs_train(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def _needs_train(item: pytest.Item) -> bool:
    target = getattr(item, "callspec", None)
    return (
        item.get_closest_marker("train") is not None
        or "demo" in getattr(item, "fixturenames", ())
        or (target is not None and target.params.get("target") == "train")
    )


@pytest.fixture(scope="session")
def built(repository: Path) -> Iterator[Built]:
    """Build and mount all targets."""
    if not is_able():
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    # Not below pytest's folder, because pytest keeps the last three, and the storage has gigabytes.
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-images-"))
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("CONTAINERS_STORAGE_CONF", str(storage_conf(folder)))
            environment.setenv("BUILDAH_ISOLATION", "chroot")
            command(str(repository / "images" / "debian-base"), str(folder))
            sizes = [import_base(folder, name) for name in ("base", "build")]
            planted = f"planted-{secrets.token_hex(8)}.example"
            environment.setenv("PIP_TRUSTED_HOST", planted)
            build(repository)
            with contextlib.ExitStack() as stack:
                names = {target: f"tuneloop-{target}:{TAG}" for target in TARGETS}
                images = {key: stack.enter_context(mounted(name)) for key, name in names.items()}
                yield Built(folder / "storage", sizes[0], planted, images)
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Delete the storage; first unmount buildah's overlay folder, which is mounted on itself."""
    env = os.environ | {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
    subprocess.run(["buildah", "rm", "--all"], env=env, check=False, capture_output=True)
    overlay = folder / "storage" / "overlay"
    if overlay.is_mount():
        command("umount", str(overlay))
    shutil.rmtree(folder)


def storage_conf(folder: Path) -> Path:
    """Configure a separate storage with overlay, because vfs copies every layer completely."""
    path = folder / "storage.conf"
    lines = ('driver = "overlay"', f'graphroot = "{folder}/storage"', f'runroot = "{folder}/run"')
    path.write_text("\n".join(("[storage]", *lines)) + "\n")
    return path


def import_base(folder: Path, name: str) -> int:
    """Import a tree of debootstrap as an image and return its size."""
    container = command("buildah", "from", "scratch").strip()
    command("buildah", "add", "--quiet", container, str(folder / f"{name}.tar"), "/")
    command("buildah", "commit", "--quiet", "--rm", container, f"debian-python-{name}:{TAG}")
    size = (folder / f"{name}.tar").stat().st_size
    (folder / f"{name}.tar").unlink()
    return size


def build(repository: Path) -> None:
    """Build an image as `make image` does."""
    arguments = ["--engine", "buildah", "--tag", TAG]
    for kind in ("base", "build"):
        arguments += ["--build-arg", f"{kind.upper()}_IMAGE=localhost/debian-python-{kind}:{TAG}"]
    command(sys.executable, str(repository / "images" / "build.py"), *arguments, *TARGETS)
