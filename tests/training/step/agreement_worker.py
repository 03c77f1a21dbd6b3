"""Change copies of weights, values or batches on one of four devices, and report what is found.

Run as `python -m tests.training.step.agreement_worker` with four forced CPU devices; it prints one
JSON object: name of the case -> error, or null.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.errors import DataError
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.training.data.batches import Batch
from tuneloop.training.step.agreement import EVERY_STEPS, Agreement
from tuneloop.training.step.mesh import build_mesh

MESH = build_mesh(MeshSpec(data=2, fsdp=2), jax.devices())
ARRAYS = {"everywhere": (8, 3), "by_fsdp": (4, 6), "narrow": (4, 2), "by_all": (8, 2)}
SPECS = {"everywhere": P(), "by_fsdp": P("fsdp"), "narrow": P(), "by_all": P(("data", "fsdp"))}
BATCH = Batch(
    np.arange(32, dtype=np.int32).reshape(4, 8),
    np.ones((4, 8), np.int32),
    np.ones((4, 8), np.bool_),
    ("a", "b", "c", "d"),
)


def placed(values: Any, spec: Any, broken: int | None = None) -> jax.Array:
    """Place an array; one device may get other values, which JAX does not notice."""
    sharding = NamedSharding(MESH, spec)
    parts = []
    places: Any = sharding.addressable_devices_indices_map(values.shape)
    for device, index in places.items():
        part = values[index]
        parts.append(jax.device_put(part + (device.id == broken), device))
    return jax.make_array_from_single_device_arrays(values.shape, sharding, parts)


class Weights(nnx.Module):
    """Weights that are split in different ways, and one that no mesh has."""

    def __init__(self, **broken: int) -> None:
        for name, shape in ARRAYS.items():
            dtype = np.float16 if name == "narrow" else np.float32
            values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
            setattr(self, name, nnx.Param(placed(values, SPECS[name], broken.get(name))))
        self.local = nnx.Param(np.float32(1))


def found(
    step: int = 1, loss: int | None = None, norm: int | None = None, **broken: int
) -> str | None:
    """Compare a step of which these arrays are broken on these devices."""
    values = [placed(np.float32(number), P(), at) for number, at in ((5.5, loss), (0.25, norm))]
    agreement = Agreement(MESH)
    agreement.start(step, (values[0], values[1]), Weights(**broken), BATCH)
    return error_of(lambda: agreement.check(step))


def error_of(call: Callable[[], None]) -> str | None:
    try:
        call()
    except DataError as e:
        return str(e)
    return None


def found_later(step: int) -> str | None:
    """Break a weight after the first step of the process, which is compared."""
    agreement = Agreement(MESH)
    values = (placed(np.float32(1), P()), placed(np.float32(1), P()))
    agreement.start(1, values, Weights(), BATCH)
    agreement.check(1)
    agreement.start(step, values, Weights(narrow=3), BATCH)
    return error_of(lambda: agreement.check(step))


def main() -> None:
    alone = Agreement(None)
    alone.start(1, None, Weights(), BATCH)
    cases = {
        "nothing": found(),
        "loss": found(loss=2),
        "norm": found(step=7, norm=1),
        "everywhere": found(everywhere=3),
        "narrow": found(narrow=0),
        "by_fsdp": found(by_fsdp=1),
        "by_all": found(by_all=1),
        "one device": error_of(lambda: alone.check(1)),
        "not due": found_later(EVERY_STEPS - 1),
        "due": found_later(2 * EVERY_STEPS),
    }
    sys.stdout.write(json.dumps(cases))


if __name__ == "__main__":
    main()
