from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.builders import REPOSITORY, xla_flags
from tests.training.models.checkpoints import random_tensors, tiny_config, write_folder
from tuneloop.training.models.hf_layout import open_folder


def test_each_of_two_processes_reads_and_holds_its_own_half(tmp_path: Path) -> None:
    config = tiny_config("gemma3_text", num_hidden_layers=2)
    tensors = random_tensors(config)
    write_folder(tmp_path, config, tensors)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = [sys.executable, "-m", "tests.training.models.two_processes", str(tmp_path), port]
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=1), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "lib")])
    started = [
        subprocess.Popen(
            [*command, str(process)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    results = [process.communicate(timeout=240) for process in started]
    for process, (_, error) in zip(started, results, strict=True):
        assert process.returncode == 0, error[-3000:]
    total = sum(array.nbytes for array in tensors.values())
    vectors = sum(array.nbytes for array in tensors.values() if array.ndim == 1)
    for number in range(2):
        report = json.loads((tmp_path / f"process-{number}.json").read_text())
        # Norms are whole in each process. Everything else is split.
        assert report["held"] == (total + vectors) // 2
        # Halves of rows are cut out of whole rows; other halves are read alone.
        assert report["read"] < total
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "written.safetensors").rename(tmp_path / "model.safetensors")
    written = open_folder(str(tmp_path)).tensors
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[name].array(), tensors[name]) for name in tensors)
