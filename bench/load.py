"""Memory and time of loading a checkpoint of Gemma 3 1B's shape; compared with Tunix's own loader.

The checkpoint (2.0 GB of bfloat16) is written to a temporary folder first. Every measurement is a
process of its own. Peak memory is what the process itself allocates (RssAnon), its libraries
included; pages of mapped files can be dropped at any time and do not count, but `peak_rss_gb`
includes them. Two processes share one mesh of four CPU devices and load half a model each. Tunix
needs 9 GB and two minutes in each of two processes, so it is only measured there with
`--both-in-two-processes`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from figure import print_figure, sized

CONFIG: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": sized(262144, 512),
    "hidden_size": sized(1152, 64),
    "intermediate_size": sized(6912, 128),
    "num_hidden_layers": sized(26, 2),
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": sized(256, 16),
    "query_pre_attn_scalar": sized(256, 16),
    "sliding_window": 512,
    "max_position_embeddings": 32768,
}
DEVICES = 4
GB = 1e9
CHILD = "--load"


def write_checkpoint(folder: Path) -> None:
    """Write a folder of the full shape with random weights."""
    import ml_dtypes

    from tuneloop.training.models.hf_config import dump_config, parse_config
    from tuneloop.training.models.hf_writer import outgoing_array, write_weights
    from tuneloop.training.models.tensors import expected_tensors

    architecture = parse_config(CONFIG, "bench")
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    # Repeated, because drawing a thousand million numbers would take minutes.
    block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(bfloat16)
    tensors = [
        outgoing_array(name, bfloat16, shape, lambda shape=shape: np.resize(block, shape))  # type: ignore[misc]
        for name, shape in expected_tensors(architecture).items()
    ]
    write_weights(tensors, lambda name: (folder / name).open("wb"))
    config = json.dumps(dump_config(architecture, "bfloat16"))
    (folder / "config.json").write_text(config)


def memory_gb(key: str) -> float:
    """Read a figure of this process, such as RssAnon, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / GB
    raise KeyError(key)


class Peak:
    """The most memory of its own that this process had, sampled every 10 ms."""

    def __init__(self) -> None:
        """Start sampling."""
        self.gb = 0.0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.gb = max(self.gb, memory_gb("RssAnon"))
            time.sleep(0.01)


def load(loader: str, folder: str, processes: int, index: int, port: str) -> None:
    """Load in this process, one of `processes`, and print the measurement as JSON."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    import jax
    from flax import nnx
    from jax.sharding import Mesh
    from tunix.models.gemma3 import params_safetensors

    from tuneloop.training.models.families import gemma3
    from tuneloop.training.models.hf_config import parse_config
    from tuneloop.training.models.hf_layout import open_folder
    from tuneloop.training.models.loading import load_model

    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, index, cluster_detection_method="deactivate"
        )
    mesh = Mesh(np.array(jax.devices()).reshape(DEVICES, 1), ("fsdp", "tp"))
    architecture = parse_config(json.loads(Path(folder, "config.json").read_text()), folder)
    before, peak, start = memory_gb("RssAnon"), Peak(), time.perf_counter()
    if loader == "ours":
        model = load_model(open_folder(folder), architecture, mesh=mesh)
    else:
        config = gemma3.abstract_model(architecture, "bfloat16").config
        model = params_safetensors.create_model_from_safe_tensors(
            folder, config, mesh, jax.numpy.bfloat16
        )
    arrays = jax.tree.leaves(nnx.state(model, nnx.Param))
    jax.block_until_ready(arrays)  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - start
    time.sleep(0.02)
    shards = sum(shard.data.nbytes for array in arrays for shard in array.addressable_shards)
    found = {
        "loader": loader,
        "process": f"{index + 1} of {processes}",
        "seconds": round(seconds, 2),
        "shards_gb": round(shards / GB, 3),
        "before_gb": round(before, 3),
        "peak_gb": round(peak.gb, 3),
        "peak_rss_gb": round(memory_gb("VmHWM"), 3),
    }
    print(json.dumps(found), flush=True)


def measure(loader: str, folder: Path, processes: int) -> dict[str, float]:
    """Start the processes and return the largest of each figure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, CHILD, loader, str(folder), str(processes)]
    started = [
        subprocess.Popen([*command, str(index), str(port)], stdout=subprocess.PIPE, text=True)
        for index in range(processes)
    ]
    figures: dict[str, float] = {}
    for each in started:
        out, _ = each.communicate()
        if each.returncode:
            raise SystemExit(f"{loader}: a process ended with {each.returncode}")
        found = json.loads(out.splitlines()[-1])
        print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
        for key, value in found.items():
            if isinstance(value, float | int):
                figures[key] = max(value, figures.get(key, 0))
    return figures


def main() -> None:
    """Measure one process with both loaders, and two with ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        pairs = [(measure("ours", folder, 1), measure("tunix", folder, 1)) for _ in range(1)]
        two = measure("ours", folder, 2)
        rival_of_two = pairs[0][1]  # Tunix in one process, which is its better case
        if "--both-in-two-processes" in sys.argv:
            rival_of_two = measure("tunix", folder, 2)
    print_figure(
        "load_seconds", "s", [(ours["seconds"], rival["seconds"]) for ours, rival in pairs]
    )
    print_figure("load_peak", "GB", [(ours["peak_gb"], rival["peak_gb"]) for ours, rival in pairs])
    print_figure("load_peak_of_two_processes", "GB", [(two["peak_gb"], rival_of_two["peak_gb"])])


if __name__ == "__main__":
    if CHILD in sys.argv:
        loader, folder, processes, index, port = sys.argv[sys.argv.index(CHILD) + 1 :]
        load(loader, folder, int(processes), int(index), port)
    else:
        main()
