"""Peak memory of LoRA on a model of Gemma 3 1B's shape in bfloat16; compared with 14 GB.

A process of its own loads the folder and trains three steps (rank 8, 2 x 64 tokens). The figure is
the peak of its anonymous memory: pages of the mapped file can be dropped at any time. It takes
about four minutes and 16 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from figure import SMOKE, print_figure, sized

from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_writer import outgoing_array, write_weights
from tuneloop.training.models.tensors import expected_tensors

LIMIT_GB = 14.0
STEPS = 3
BATCH_SIZE, LENGTH = 2, 64
CONFIG: dict[str, Any] = {
    **{"model_type": "gemma3_text", "vocab_size": sized(262_144, 512)},
    **{"hidden_size": sized(1152, 64), "intermediate_size": sized(6912, 128)},
    **{"num_hidden_layers": sized(26, 2), "num_attention_heads": 4, "num_key_value_heads": 1},
    **{"head_dim": sized(256, 16), "query_pre_attn_scalar": sized(256, 16)},
    **{"sliding_window": 512, "rope_theta": 1e6, "max_position_embeddings": 32_768},
}
BLOCK = 1 << 16
"""Random numbers that all weights repeat; drawing a billion of them would take a minute."""


def write_model(folder: Path) -> None:
    """Write the model's folder, one tensor at a time."""
    architecture = parse_config(CONFIG, "config.json")
    config = dump_config(architecture, "bfloat16")
    (folder / "config.json").write_text(json.dumps(config))
    block = np.random.default_rng(0).standard_normal(BLOCK, np.float32)

    def reader(shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
        scale = shape[1] ** -0.5 if len(shape) > 1 else 0.0
        values = (block * np.float32(scale)).astype(ml_dtypes.bfloat16)
        return lambda: np.resize(values, shape)

    @contextmanager
    def open_file(name: str) -> Iterator[IO[bytes]]:
        with (folder / name).open("wb") as file:
            yield file

    dtype = np.dtype(ml_dtypes.bfloat16)
    tensors = expected_tensors(architecture).items()
    write_weights(
        [outgoing_array(n, dtype, shape, reader(shape)) for n, shape in tensors], open_file
    )


def train(folder: Path) -> dict[str, Any]:
    """Load the model, add adapters, train, and return what was measured."""
    peak = [0]
    threading.Thread(target=_watch, args=(peak,), daemon=True).start()
    # JAX is imported here, so that the process that only writes the folder does without.
    from tuneloop.specs.training.method import LoraMethod
    from tuneloop.specs.training.train import TrainSpec
    from tuneloop.training.models.hf_layout import open_folder
    from tuneloop.training.models.loading import load_model
    from tuneloop.training.models.lora.apply import apply_lora
    from tuneloop.training.sft import distributed, loop
    from tuneloop.training.sft.callbacks import SftOptions
    from tuneloop.training.sft.trainer import NEVER

    since = time.perf_counter()
    architecture = parse_config(json.loads((folder / "config.json").read_text()), str(folder))
    model = load_model(open_folder(str(folder)), architecture)
    loaded, loaded_peak = time.perf_counter(), peak[0]
    method = LoraMethod(kind="lora", rank=8, alpha=16.0)
    model = apply_lora(model, architecture, method, seed=0)
    applied = time.perf_counter()
    spec = TrainSpec(steps=STEPS, batch_size=BATCH_SIZE, max_length_tokens=LENGTH)
    options = SftOptions(
        spec,
        seed=0,
        resume_prefix=str(folder / "resume"),
        checkpoint_every_steps=NEVER,
        process_group=distributed.join(spec.mesh),
    )
    progress = loop.run_sft(model, _table(architecture.vocab_size), options)
    time.sleep(0.1)  # one more look at the memory
    return {
        "peak_gb": peak[0] / 1e9,
        "peak_gb_after_loading": loaded_peak / 1e9,
        "load_seconds": round(loaded - since, 1),
        "apply_seconds": round(applied - loaded, 1),
        "step_seconds": [round(row.step_seconds, 1) for row in progress.metrics],
        "losses": [row.loss for row in progress.metrics],
    }


def _table(vocab_size: int) -> Any:
    from tuneloop.training.data.table import TokenTable

    rows = STEPS * BATCH_SIZE
    ids = np.random.default_rng(1).integers(4, vocab_size, rows * LENGTH, dtype=np.int32)
    return TokenTable(
        ids,
        np.arange(rows + 1, dtype=np.int64) * LENGTH,
        np.full(rows, LENGTH // 2, np.int32),
        tuple(map(str, range(rows))),
        pad_id=0,
    )


def _watch(peak: list[int]) -> None:
    status = Path("/proc/self/status")
    while True:
        lines = dict(line.split(":") for line in status.read_text().splitlines() if ":" in line)
        peak[0] = max(peak[0], int(lines["RssAnon"].split()[0]) * 1024)
        time.sleep(0.02)


def main() -> None:
    """Write the model, and measure a process that trains it."""
    with tempfile.TemporaryDirectory(prefix="tuneloop-lora-1b-") as folder:
        write_model(Path(folder))
        command = [sys.executable, __file__, "--train", folder, *(["--smoke"] if SMOKE else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    print("measured:", json.dumps(measured))
    print_figure("lora_1b", "GB", [(measured["peak_gb"], LIMIT_GB)])


if __name__ == "__main__":
    if "--train" in sys.argv:
        print(json.dumps(train(Path(sys.argv[sys.argv.index("--train") + 1]))))
    else:
        main()
