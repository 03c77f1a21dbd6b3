"""Check that all processes and devices train the same model on the same batches.

Every process builds the whole batch and places the rows of its own devices, and every device
updates its own copy of what is not split. JAX does not compare these copies. If two hosts had other
data or a device computed wrongly, the training would go on with a mixture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.errors import DataError
from tuneloop.training.data.batches import Batch
from tuneloop.training.models.sharding import AXES, is_on_mesh

EVERY_STEPS = 100
"""Steps between two checks; the first step of every process is checked too."""
DIGEST_WORDS = 2
"""uint32 words of the digest of a batch."""
_SHOWN = 8


class Agreement:
    """Compares what devices have computed, without waiting for them.

    `start` queues the comparison on the devices, after the step. `check` reads its result when the
    step has ended. Every process of a group makes the same calls.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        """Prepare for the devices of a mesh; with None there is nothing to compare."""
        self._mesh = mesh
        self._gather: Any = None
        self._columns: list[tuple[str, frozenset[str]]] = []
        self._started: dict[int, jax.Array] = {}

    def start(
        self, step: int, values: tuple[jax.Array, jax.Array] | None, model: Any, batch: Batch | None
    ) -> None:
        """Compare a step if it is due: the first one of this process, or every hundredth.

        Args:
            step: number of the finished step.
            values: its loss and gradient norm; None if this process has not computed a step yet.
            model: the model after the step.
            batch: the batch of the step.
        """
        is_due = step % EVERY_STEPS == 0 or self._gather is None
        if self._mesh is None or values is None or batch is None or not is_due:
            return
        arrays = _copied_arrays(model, self._mesh)
        if self._gather is None:
            self._columns = _columns_of(arrays)
            self._gather = _build_gather(self._mesh, arrays)
        by_device = NamedSharding(self._mesh, P(AXES))  # type: ignore[no-untyped-call]
        words = np.frombuffer(_digest(batch), np.uint32)[None]
        shape = (self._mesh.size, DIGEST_WORDS)
        digests = jax.make_array_from_callback(shape, by_device, lambda index: words)
        self._started[step] = self._gather(digests, *values, arrays)

    def check(self, step: int) -> None:
        """Raise an error if `start` has found a difference; waits for the end of the step.

        Args:
            step: number of a step; nothing is done if it was not compared.

        Raises:
            DataError: batches, losses, gradient norms or weights differ.
        """
        started = self._started.pop(step, None)
        if started is None or self._mesh is None:
            return
        found = np.asarray(started)
        for number, (kind, split) in enumerate(self._columns):
            words = slice(0, DIGEST_WORDS) if number == 0 else [DIGEST_WORDS + number - 1]
            values = found[:, words].reshape(*self._mesh.devices.shape, -1)
            if copies := _different_copies(values, split, self._mesh):
                raise _disagreement(kind, step, copies)


def _digest(batch: Batch) -> bytes:
    digest = hashlib.blake2b(digest_size=4 * DIGEST_WORDS)
    for array in batch.arrays().values():
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _split_axes(array: jax.Array) -> frozenset[str]:
    """Return the axes of the mesh that an array is split over."""
    spec: Any = array.sharding.spec  # type: ignore[attr-defined]
    names = [each if isinstance(each, tuple) else (each,) for each in spec if each is not None]
    return frozenset(name for axes in names for name in axes)


def _copied_arrays(model: Any, mesh: Mesh) -> list[jax.Array]:
    """Return the weights of which at least two devices hold the same part."""
    several = {name for name, size in mesh.shape.items() if size > 1}
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return [each for each in leaves if is_on_mesh(each, mesh) and several - _split_axes(each)]


def _columns_of(arrays: Sequence[jax.Array]) -> list[tuple[str, frozenset[str]]]:
    """Name what the columns of a gathered array hold, with the axes along which they may differ."""
    weights = sorted({_split_axes(each) for each in arrays}, key=sorted)
    nowhere = frozenset[str]()
    return [
        *((kind, nowhere) for kind in ("batch", "loss", "gradient norm")),
        *(("weights", split) for split in weights),
    ]


def _build_gather(mesh: Mesh, arrays: Sequence[jax.Array]) -> Any:
    """Compile the comparison for weights that are split like these.

    The result is a function of the digests of the batch, uint32 (devices, DIGEST_WORDS), the loss,
    the gradient norm and the weights. It returns on every device uint32 (devices, columns), one row
    for each device in the order of the mesh.
    """
    groups = [split for kind, split in _columns_of(arrays) if kind == "weights"]
    members = [
        [n for n, each in enumerate(arrays) if _split_axes(each) == split] for split in groups
    ]
    by_device, everywhere = P(AXES), P()  # type: ignore[no-untyped-call]

    def local(
        digests: jax.Array, loss: jax.Array, norm: jax.Array, arrays: Sequence[jax.Array]
    ) -> jax.Array:
        words = [*digests[0], _bits(loss), _bits(norm)]
        for numbers in members:
            total = jnp.zeros((), jnp.uint32)
            for number in numbers:
                total = total * 31 + _bits(arrays[number]).sum(dtype=jnp.uint32)
            words.append(total)
        return jnp.stack(words)[None]

    specs = [each.sharding.spec for each in arrays]  # type: ignore[attr-defined]
    compare = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(by_device, everywhere, everywhere, specs),
        out_specs=by_device,
        check_vma=False,
    )
    return jax.jit(compare, out_shardings=NamedSharding(mesh, everywhere))


def _bits(array: jax.Array) -> jax.Array:
    """Return the bits of numbers as uint32, so that sums are exact in any order."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
    return array.astype(jnp.uint32)


def _different_copies(
    values: np.ndarray, split: frozenset[str], mesh: Mesh
) -> list[tuple[Any, np.ndarray]]:
    """Return the devices that should have the same value and do not, each with its value.

    Args:
        values: uint32 (data, fsdp, tp, words).
        split: axes along which the values differ anyway, because other parts are there.
        mesh: the devices.
    """
    first = values[tuple(slice(None) if axis in split else slice(0, 1) for axis in AXES)]
    places = np.argwhere(np.any(values != first, axis=-1))
    if not len(places):
        return []
    place = zip(AXES, places[0], strict=True)
    index = tuple(at if axis in split else slice(None) for axis, at in place)
    copies = values[index].reshape(-1, values.shape[-1])
    return list(zip(np.ravel(mesh.devices[index]), copies, strict=True))


def _disagreement(kind: str, step: int, copies: Sequence[tuple[Any, np.ndarray]]) -> DataError:
    """Build the error about a value that differs.

    Args:
        kind: what differs, as in `_columns_of`.
        step: number of the step.
        copies: devices, each with its value.
    """
    is_number = kind in ("loss", "gradient norm")
    texts = [
        repr(float(words.view(np.float32)[0])) if is_number else words.tobytes().hex()
        for _, words in copies
    ]
    places = [f"process {device.process_index}" for device, _ in copies]
    if len(set(zip(places, texts, strict=True))) > len(set(places)):
        places = [f"device {device.id}" for device, _ in copies]
    found = [f"{place}: {text}" for place, text in dict(zip(places, texts, strict=True)).items()]
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    listed = ", ".join(found[:_SHOWN] + more)
    if kind == "batch":
        return DataError(
            f"training: the processes have built different batches for step {step} (digests of"
            f" {listed}), expected the same batch in all; start all of them with the same stage"
            " spec, image and artifacts"
        )
    if kind == "weights":
        kind, listed = "copies of the same weights", f"checksums of {listed}"
    return DataError(
        f"training: after step {step}, devices disagree about the {kind} ({listed}), expected equal"
        " bits; start all processes with the same model and image, or look for a faulty device; run"
        " again to continue from the newest checkpoint"
    )
