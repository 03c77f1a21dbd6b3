"""A device that refuses this user becomes one sentence; the process really changes its user."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuneloop.errors import PermissionDenied
from tuneloop.stages.lifecycle.failures import explain, refused_device

NOBODY = 65534
CUDA = RuntimeError("Unable to initialize backend 'cuda': INTERNAL: no supported devices found")
TPU = RuntimeError(
    "Unable to initialize backend 'tpu': UNKNOWN: TPU initialization failed: open(/dev/vfio/0):"
    " Operation not permitted: Operation not permitted; Couldn't open iommu group /dev/vfio/0"
)


@pytest.fixture
def devices() -> Iterator[Path]:
    """A folder with two device files of root, of which others may open the second."""
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-devices-"))
    folder.chmod(0o755)
    for name, mode in (("nvidia0", 0o600), ("nvidiactl", 0o666)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    (folder / "nvidia-caps").mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_file_that_refuses_is_named_with_owner_mode_and_user(devices: Path) -> None:
    with as_nobody():
        found = refused_device(CUDA, "train", [f"{devices}/nvidia*"])
    assert str(found) == (
        f"stage train: user 65534 may not open {devices}/nvidia0 (owner 0:0, mode 0600); set"
        " pod_security: baseline for the stage, or device_ownership_from_security_context = true in"
        " containerd on the nodes"
    )


def test_devices_that_can_be_opened_are_not_the_cause(devices: Path) -> None:
    with as_nobody():
        assert refused_device(CUDA, "train", [f"{devices}/nvidiactl", "/nowhere/*"]) is None
        other = RuntimeError("INTERNAL: an assertion")
        assert refused_device(other, "train", [f"{devices}/nvidia*"]) is None


def test_what_libtpu_names_is_refused_wherever_the_file_is() -> None:
    found = explain(TPU, "train", "s3://b/run")
    assert isinstance(found, PermissionDenied)
    assert "may not open /dev/vfio/0" in str(found)
    plain = PermissionError(13, "Permission denied", "/dev/accel0")
    assert "may not open /dev/accel0" in str(explain(plain, "train", "s3://b/run"))
    busy = RuntimeError(str(TPU).replace("Operation not permitted", "Device or resource busy"))
    assert refused_device(busy, "train", []) is None


def test_a_file_of_the_artifacts_is_not_a_device() -> None:
    found = explain(PermissionError(13, "Permission denied", "/data/dev/x"), "train", "/data")
    assert "/data: cannot be written: Permission denied" in str(found)


def test_what_jax_really_says_without_a_chip_is_recognized(devices: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['libtpu'] = None\n"  # an import of it fails, as where it is not installed
        "import jax\n"
        "try:\n    jax.devices()\n"
        "except Exception as e:\n    print(f'{type(e).__name__} {e}')\n"
    )
    # libtpu sets TPU_LIBRARY_PATH when a test imports it.
    env = {name: value for name, value in os.environ.items() if name != "TPU_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**env, "JAX_PLATFORMS": "tpu", "TPU_SKIP_MDS_QUERY": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    kind, _, text = done.stdout.strip().partition(" ")
    assert kind in ("RuntimeError", "JaxRuntimeError"), done.stdout
    start, _, missing = text.partition("INTERNAL: ")
    assert "libtpu.so: cannot open shared object file" in missing
    with as_nobody():
        assert refused_device(RuntimeError(text), "train", [f"{devices}/nvidia0"]) is None
        # With libtpu, JAX says the same first.
        text = f"{start}INTERNAL: no device"
        found = refused_device(RuntimeError(text), "train", [f"{devices}/nvidia0"])
    assert "nvidia0 (owner 0:0, mode 0600)" in str(found)
