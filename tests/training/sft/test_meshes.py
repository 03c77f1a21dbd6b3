"""Training on every mesh gives the losses of one device, and processes that differ are found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import METHODS, REPOSITORY, xla_flags
from tests.training.sft.groups import group_environment

ROWS = ("padded", "packed")
MESHES = ("4-1-1", "1-4-1", "1-2-2")
"""Sizes of data, fsdp and tp."""


def run_workers(
    folder: Path, cells: list[str], processes: int = 1, devices: int = 1, **env: str
) -> tuple[list[int], str]:
    """Train cells of `mesh_worker` in a process group; returns exit codes and the end of logs."""
    flags = xla_flags(devices)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.sft.mesh_worker", str(folder), *cells],
            cwd=REPOSITORY,
            env={**environment, "XLA_FLAGS": flags, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in group_environment(processes)
    ]
    try:
        logs = "\n".join(each.communicate(timeout=400)[1][-3000:] for each in started)
    finally:
        for each in started:
            each.kill()
    return [each.returncode for each in started], logs


def losses(folder: Path) -> dict[str, list[float]]:
    """Read the losses of all cells."""
    found: dict[str, list[float]] = json.loads((folder / "losses.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of every cell in one process with four devices, and of one of these devices alone."""
    folder = tmp_path_factory.mktemp("four")
    meshes = ("1-1-1", *MESHES)
    cells = [f"{method}-{rows}-{mesh}" for method in METHODS for rows in ROWS for mesh in meshes]
    codes, logs = run_workers(folder, cells, devices=4)
    assert codes == [0], logs
    return losses(folder)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", METHODS)
def test_every_mesh_of_four_devices_trains_as_one_device_does(
    method: str, rows: str, mesh: str, four_devices: dict[str, list[float]]
) -> None:
    alone, found = (four_devices[f"{method}-{rows}-{each}"] for each in ("1-1-1", mesh))
    assert len(found) == 20
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_two_processes_train_as_one_device_does(
    four_devices: dict[str, list[float]], tmp_path: Path
) -> None:
    cells = [f"{method}-{rows}-1-2-1" for method in METHODS for rows in ROWS]
    codes, logs = run_workers(tmp_path, cells, processes=2)
    assert codes == [0, 0], logs
    for cell, found in losses(tmp_path).items():
        alone = four_devices[cell.replace("1-2-1", "1-1-1")]
        np.testing.assert_allclose(found, alone, rtol=1e-5, err_msg=cell)


def test_processes_with_different_batches_end_after_the_first_step(tmp_path: Path) -> None:
    cell = "full-padded-1-2-1"
    codes, logs = run_workers(tmp_path, [cell], processes=2, SEED_BY_PROCESS="1")
    assert 65 in codes
    assert set(codes) <= {65, -signal.SIGABRT}, logs  # JAX ends the peers of one that ends
    assert "the processes have built different batches for step 1 (digests of process 0: " in logs
    assert "expected the same batch in all; start all of them with the same stage spec" in logs
