"""Examples per CPU second when they are packed; compared with rows padded to the longest example.

The lengths have a median of 320 and a 99th percentile of 1,600 tokens; longer ones than 1,024 are
left out. Both train the same tiny model with rows of 1,024 tokens. A second figure is what the data
of a million examples costs: CPU seconds from the token file to the first batch, and the memory that
this process needs more, in GB. Its token file has 1.2 GB on disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from figure import print_figure, sized
from flax import nnx

from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.batches import Batch, Rows
from tuneloop.training.data.encoding import BLOCK_EXAMPLES, Block
from tuneloop.training.data.table import join_blocks
from tuneloop.training.data.token_file import open_token_file, write_token_file
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.step import loss

LENGTH, MEDIAN, P99 = sized(1024, 64), sized(320, 20), sized(1600, 100)
BATCH_SIZE = 4
EXAMPLES, MANY = sized(20_000, 100), sized(1_000_000, 2_000)
ROUNDS, STEPS = sized(3, 1), sized(3, 1)
PIECES = 256
LIMIT_SECONDS = 20.0


def blocks(examples: int) -> Iterator[Block]:
    """Yield random examples of usual lengths."""
    draw = np.random.default_rng(0)
    sigma = np.log(P99 / MEDIAN) / 2.326  # a normal distribution has 1 % above 2.326 sigma
    for start in range(0, examples, BLOCK_EXAMPLES):
        count = min(BLOCK_EXAMPLES, examples - start)
        lengths = np.exp(draw.normal(np.log(MEDIAN), sigma, 2 * count)).astype(np.int64)
        lengths = np.resize(lengths[(lengths > 1) & (lengths <= LENGTH)], count)
        yield Block(
            draw.integers(4, PIECES, int(lengths.sum()), dtype=np.int32),
            lengths,
            (lengths // 2).astype(np.int32),
            tuple(f"{start + n:032x}" for n in range(count)),
        )


def spec_of(packing: bool, batch_size: int) -> TrainSpec:
    """Return the options of a training."""
    return TrainSpec(steps=1, batch_size=batch_size, max_length_tokens=LENGTH, packing=packing)


def arranged(name: str, *, packing: bool, buckets: bool) -> list[Batch]:
    """Return the first batches of a training."""
    table = join_blocks(blocks(EXAMPLES), pad_id=0)
    rows = Rows(table, spec_of(packing, BATCH_SIZE), batch_size=BATCH_SIZE)
    if not buckets:
        rows.padded_lengths = rows.padded_lengths[-1:]
    found = [rows.batch_at(step, seed=0) for step in range(max(STEPS, 200))]
    share = 1 - sum(b.token_count for b in found) / sum(b.tokens.size for b in found)
    print(f"{name}: {100 * share:.2f} % of {len(found)} batches are padding")
    return found[:STEPS]


def examples_per_second(compiled: Any, model: Any, batches: list[Batch]) -> float:
    """Return the examples of some batches per CPU second of loss and gradients."""
    since = time.process_time()
    for batch in batches:
        total, _ = compiled(model, batch.arrays())
        total.block_until_ready()
    return sum(len(batch.example_ids) for batch in batches) / (time.process_time() - since)


def packed_and_padded() -> list[tuple[float, float]]:
    """Measure both alternately."""
    shape = RandomModelSpec(
        num_layers=2, embed_dim=64, hidden_dim=128, num_heads=2, num_kv_heads=1, head_dim=32
    )
    model = build_random_model(random_architecture(shape, PIECES), 0)

    @nnx.jit  # type: ignore[untyped-decorator]
    def compiled(model: Any, arrays: Any) -> Any:
        return nnx.value_and_grad(
            lambda model: loss.token_losses(model, loss.model_inputs(arrays))[0]
        )(model)

    packed = arranged("packed", packing=True, buckets=True)
    arranged("padded to buckets", packing=False, buckets=True)
    padded = arranged("padded to the longest", packing=False, buckets=False)
    for batches in (packed, padded):  # compiles every shape
        examples_per_second(compiled, model, batches)
    return [
        (
            examples_per_second(compiled, model, packed),
            examples_per_second(compiled, model, padded),
        )
        for _ in range(ROUNDS)
    ]


def anonymous_bytes() -> int:
    """Return the memory of this process, without mapped files, whose pages can be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def first_batch(packing: bool) -> float:
    """Return the CPU seconds from a token file of many examples to the first batch."""
    with tempfile.TemporaryDirectory(prefix="tuneloop-packing-") as folder:
        write_token_file(folder, blocks(MANY), attempt=f"bench-{os.getpid()}")
        before, since = anonymous_bytes(), time.process_time()
        table, _ = open_token_file(folder, pad_id=0)
        rows = Rows(table, spec_of(packing, 32), batch_size=32)
        rows.batch_at(0, seed=0)
        seconds = time.process_time() - since
        memory = (anonymous_bytes() - before) / 1e9
        since = time.process_time()
        for step in range(1000, 1100):
            rows.batch_at(step, seed=0)
        step_ms = (time.process_time() - since) * 10
    print(
        f"{MANY} examples, packing {packing}: first batch after {seconds:.2f} CPU s,"
        f" {memory:.3f} GB more memory, {step_ms:.2f} ms for a batch of 32 rows"
    )
    return seconds


def main() -> None:
    """Measure and print both figures."""
    print_figure("packing", "examples/s", packed_and_padded())
    seconds = [first_batch(packing) for packing in (False, True)]
    print_figure("packing_first_batch", "s", [(max(seconds), LIMIT_SECONDS)])


if __name__ == "__main__":
    main()
