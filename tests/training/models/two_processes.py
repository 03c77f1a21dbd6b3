"""One of two processes that load a model together; test_two_processes.py starts both.

Writes process-N.json: the number of bytes that this process has read and holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.hf_writer import outgoing_params, write_weights
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.stored import discard


def main(folder: Path, port: str, process: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", 2, process, cluster_detection_method="deactivate"
    )
    config = json.loads((folder / "config.json").read_text())
    architecture = parse_config(config, "config.json")
    files = open_folder(str(folder))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 1), ("fsdp", "tp"))
    params = live_params(load_model(files, architecture, mesh=mesh))
    held = sum(shard.data.nbytes for array in params.values() for shard in array.addressable_shards)
    read = files.bytes_read
    target = folder / "written.safetensors"
    opened = discard if process else (lambda name: target.open("wb"))
    write_weights(outgoing_params(params, architecture, files), opened)
    (folder / f"process-{process}.json").write_text(json.dumps({"read": read, "held": held}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
