"""Generate on all devices of a process and on one of them, and compare.

Run as a process of its own, which has several devices on a CPU.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp

from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.training.generation import decoding
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model

SHAPE = {"num_layers": 1, "embed_dim": 32, "hidden_dim": 32, "num_heads": 4, "num_kv_heads": 2}


def main() -> None:
    """Compare all devices with one, for a batch that they can divide."""
    architecture = random_architecture(RandomModelSpec(**SHAPE, head_dim=8), 64)
    model = build_random_model(architecture, seed=3)
    prompts = [[n + 1, *range(n % 5 + 1)] for n in range(8)]
    everywhere = Generator(model, architecture, stop_ids=(9,), batch_size=8, max_new_tokens=6)
    plan = everywhere.plan(prompts)
    found = everywhere.generate(prompts, plan)
    decoder = everywhere._decoder
    tokens = jnp.zeros((8, plan.longest_tokens), jnp.int32)
    rows = decoder._by_rows(tokens), decoder._by_rows(tokens[:, 0] + 3)
    room = plan.longest_tokens + 6
    _, cache = decoder._compiled_prefill(decoder._leaves, None, *rows, cache_tokens=room)
    keys = cache["layer_0"]["k"]
    assert keys.sharding.shard_shape(keys.shape)[0] == 8 // jax.local_device_count() == 2
    decoding._row_devices = lambda: None
    alone = Generator(model, architecture, stop_ids=(9,), batch_size=8, max_new_tokens=6)
    assert alone.generate(prompts, plan) == found
    assert len(set(found.values())) > 4
    sys.stdout.write("equal")


if __name__ == "__main__":
    main()
