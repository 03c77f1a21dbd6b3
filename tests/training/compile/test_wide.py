"""Steps of realistic width: the closed form against the compiler, and the loss of a large head."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.training.compile.cells import LIBTPU_ENV, Cell, compile_all, need_libtpu
from tuneloop.training.sizing.memory import estimate_memory

GEMMA3_1B = {
    "embed_dim": 1152,
    "hidden_dim": 6912,
    "num_kv_heads": 1,
    "head_dim": 256,
    "num_layers": 1,
    "vocab_size": 262_144,
}
"""One layer of Gemma 3 1B; `bench/compile.py` compiles more."""
TOLERANCE = 0.15
HEAD_TEMP_BYTES = 500_000_000

HEAD = """
import json
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tuneloop.training.models.head import Head
from tuneloop.training.step.cross_entropy import summed_cross_entropy

found = topologies.get_topology_desc("v5e:2x2", "tpu", chips_per_host_bounds=(2, 2, 1))
place = SingleDeviceSharding(found.devices[0])

def loss(hidden, weight, targets, mask):
    return summed_cross_entropy(hidden, Head(weight, True, None), targets, mask)

def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

rows = (8, 1024)
compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(
    array((*rows, 1152), jnp.bfloat16),
    array((262_144, 1152), jnp.bfloat16),
    array(rows, jnp.int32),
    array(rows, jnp.bool_),
).compile()
print(json.dumps(compiled.memory_analysis().temp_size_in_bytes))
"""


def test_the_closed_form_is_close_to_the_compiler() -> None:
    need_libtpu()
    train = {"batch_size": 16, "max_length_tokens": 1024, "remat": "decoder"}
    cell = Cell("gemma3", "full", "v5e-2x4-8t", train=train, shape=GEMMA3_1B)
    (found,) = compile_all([cell.request])
    request, target = cell.request, cell.request.target
    sizes = request.train.mesh_sizes(target.devices, target.slices)
    estimate = estimate_memory(request.train, request.architecture, sizes, target.platform)
    assert abs(estimate.peak_bytes / found.required_bytes - 1) < TOLERANCE


def test_long_rows_need_no_memory_for_attention_scores() -> None:
    need_libtpu()
    length, heads = 2048, 4
    train = {"batch_size": 1, "max_length_tokens": length, "packing": True}
    shape = {"num_layers": 1, "layer_types": ("full",)}
    (found,) = compile_all([Cell("gemma2", "full", "v5e-1x1", train=train, shape=shape).request])
    assert found.temp_bytes is not None
    assert found.temp_bytes < heads * length * length * 2  # one layer's, in bfloat16


def test_the_loss_of_a_large_vocabulary_needs_little_memory() -> None:
    """8,192 tokens x 262,144 pieces: whole logits would be 8.6 GB in float32."""
    need_libtpu()
    env = {**os.environ, **LIBTPU_ENV}
    done = subprocess.run(
        [sys.executable, "-c", HEAD], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) < HEAD_TEMP_BYTES
