"""One process of a group that shards arrays over all devices, saves, and restores what is whole.

Run as `python -m tests.training.sft.sharded_worker PREFIX` in each process of the group.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.training.sft import distributed
from tuneloop.training.sft.checkpoints import Checkpoints

FACTORS = {2: 1.0, 4: 2.0}
"""Step -> factor of the values that are saved at this step."""


class Sharded(nnx.Module):
    """A sharded, a replicated and an unplaced array."""

    def __init__(self, group: distributed.ProcessGroup, factor: float) -> None:
        def place(values: np.ndarray, spec: P) -> Any:
            if group.mesh is None:
                return jnp.asarray(values)
            sharding = NamedSharding(group.mesh, spec)
            return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

        self.by_rows = nnx.Param(place(expected("by_rows") * factor, P("fsdp")))
        self.by_columns = nnx.Param(place(expected("by_columns") * factor, P(None, "fsdp")))
        self.everywhere = nnx.Param(place(expected("everywhere") * factor, P()))
        self.local = nnx.Param(jnp.float32(factor))


def expected(name: str) -> np.ndarray:
    """The values of an array at step 2."""
    shape = {"by_rows": (8, 3), "by_columns": (3, 8), "everywhere": (5,)}[name]
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def trained(group: distributed.ProcessGroup, factor: float) -> tuple[Sharded, Any]:
    model = Sharded(group, factor)
    return model, nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)


def check(model: Sharded) -> None:
    """Compare what this process holds with the state of step 2."""
    for name in ("by_rows", "by_columns", "everywhere"):
        for shard in getattr(model, name).get_value().addressable_shards:
            np.testing.assert_array_equal(shard.data, expected(name)[shard.index])
    assert model.local.get_value() == 1


def main(prefix: str) -> None:
    group = distributed.join(MeshSpec())
    assert group.mesh is not None
    assert group.mesh.size == 4
    checkpoints = Checkpoints(prefix, every_steps=2, process_group=group, file_bytes=64)
    assert checkpoints.restore(*trained(group, 0.0), stored_steps=9) == 0
    for step, factor in FACTORS.items():
        assert checkpoints.save(step, *trained(group, factor))
    checkpoints.close()
    if jax.process_index() == 0:
        damaged = min(Path(prefix).glob("checkpoints/4/*/00001-*.safetensors"))
        damaged.write_bytes(damaged.read_bytes()[:-1])
    group.meet("a file is damaged")
    model, optimizer = trained(group, 0.0)
    again = Checkpoints(prefix, every_steps=2, process_group=group)
    assert again.restore(model, optimizer, stored_steps=9) == 2
    check(model)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
