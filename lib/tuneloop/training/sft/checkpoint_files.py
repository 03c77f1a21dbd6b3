"""The files of one checkpoint: arrays cut into pieces, in safetensors files that a manifest names.

Each process stores the shards of its own devices, so no process ever needs the whole state. A
large array is cut into pieces, so memory and local disk hold one file at a time. The manifest is
written last and create-only: a checkpoint without a manifest does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint_manifest import (
    CheckpointFile,
    CheckpointManifest,
    Piece,
    ProcessFiles,
    StoredArray,
)

FILE_BYTES = 64 << 20
"""Largest size of a file's data; an upload holds about three times as much in memory."""

Bounds = tuple[tuple[int, int], ...]
"""First index and end of a part of an array, for each dimension."""


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory of what this process stores of the state."""

    arrays: dict[str, StoredArray]
    """All arrays of the state, also those that other processes store."""
    pieces: list[tuple[Piece, np.ndarray]]
    """The pieces that this process stores, in the order of the arrays."""
    file_bytes: int
    """Largest size of a file's data."""


def take_snapshot(state: Any, file_bytes: int = FILE_BYTES) -> Snapshot:
    """Copy this process's shards of every array to host memory; waits for the devices.

    Args:
        state: a pytree of JAX arrays. The copy stays valid when their buffers are donated.
        file_bytes: largest size of a piece; a larger array is cut along its first dimension.
    """
    arrays = {name: _data(leaf) for name, leaf in _named(state).items()}
    for array in arrays.values():
        array.copy_to_host_async()
    return Snapshot(
        {name: _describe(array) for name, array in arrays.items()},
        [found for name, array in arrays.items() for found in _own_pieces(name, array, file_bytes)],
        file_bytes,
    )


def write_files(
    snapshot: Snapshot, folder: str, subfolder: str, written: Callable[[], None]
) -> ProcessFiles:
    """Store a snapshot's pieces as safetensors files of this process.

    Args:
        snapshot: the pieces.
        folder: URL of the checkpoint's folder.
        subfolder: folder of this attempt below it; its files are new.
        written: called after each file.
    """
    found = []
    for number, group in enumerate(_groups(snapshot.pieces, snapshot.file_bytes)):
        name = f"{subfolder}/{jax.process_index():05d}-{number:05d}.safetensors"
        data = safetensors_numpy.save({piece.tensor: values for piece, values in group})
        with files.Writer(paths.join(folder, name)) as writer:
            writer.write(data)
            done = writer.close()
        found.append(
            CheckpointFile(
                name=name,
                size_bytes=done.size_bytes,
                sha256=done.sha256,
                pieces=tuple(piece for piece, _ in group),
            )
        )
        written()
    return ProcessFiles(files=tuple(found))


def read_state(manifest: CheckpointManifest, folder: str, target: Any) -> Any:
    """Read a state from a checkpoint; each process reads only files that it needs.

    Args:
        manifest: the checkpoint's manifest.
        folder: URL of the checkpoint's folder.
        target: a pytree of JAX arrays with the wanted names, shapes, dtypes and shardings; its
            values are not used.

    Returns:
        A pytree like `target` with the stored values.

    Raises:
        DataError: a file is missing or differs from the manifest, or the arrays are not those of
            the target.
    """
    leaves = _named(target)
    _check_arrays(manifest, {name: _data(leaf) for name, leaf in leaves.items()}, folder)
    arriving = {name: _Arriving(_data(leaf)) for name, leaf in leaves.items()}
    complete: dict[str, jax.Array] = {}
    # The files of all processes in parallel, so that the shards of an array arrive together.
    for file in sorted(manifest.files, key=lambda file: file.name.rpartition("-")[2]):
        wanted = [piece for piece in file.pieces if arriving[piece.array].needs(piece)]
        if not wanted:
            continue
        tensors = _read_tensors(file, folder)
        for piece in wanted:
            array = arriving[piece.array]
            # safetensors' own NumPy reader knows no bfloat16.
            dtype = np.dtype(manifest.arrays[piece.array].dtype)
            array.add(piece, np.frombuffer(tensors[piece.tensor], dtype).reshape(piece.shape))
            if array.missing == 0:
                complete[piece.array] = array.build()
    for name, array in arriving.items():
        if array.missing:
            raise DataError(
                f"{folder}: holds only a part of {name}, expected all of it; delete this checkpoint"
            )
        if name not in complete:  # an array without elements, which no file holds
            complete[name] = array.build()
    return jax.tree.unflatten(
        jax.tree.structure(target),
        [_with_data(leaf, complete[name]) for name, leaf in leaves.items()],
    )


class _Arriving:
    """The parts of one array that this process needs, filled piece by piece."""

    def __init__(self, target: jax.Array) -> None:
        self._target = target
        regions = target.sharding.addressable_devices_indices_map(target.shape).values()
        # Several devices may hold the same region; it is read once.
        self._regions = {_bounds(index or (), target.shape) for index in regions}
        self._buffers: dict[Bounds, np.ndarray] = {}
        self.missing = sum(math.prod(b - a for a, b in region) for region in self._regions)
        """Elements that have not arrived."""

    def needs(self, piece: Piece) -> bool:
        return any(_overlap(region, piece) is not None for region in self._regions)

    def add(self, piece: Piece, values: np.ndarray) -> None:
        for region in self._regions:
            common = _overlap(region, piece)
            if common is None:
                continue
            inside = tuple(
                slice(a - r[0], b - r[0]) for (a, b), r in zip(common, region, strict=True)
            )
            taken = tuple(
                slice(a - s, b - s) for (a, b), s in zip(common, piece.start, strict=True)
            )
            self._buffer(region)[inside] = values[taken]
            self.missing -= math.prod(b - a for a, b in common)

    def build(self) -> jax.Array:
        """Place the array on the target's devices and release the host memory."""
        target = self._target
        built: jax.Array
        if target.committed:
            built = jax.make_array_from_callback(
                target.shape,
                target.sharding,
                lambda index: self._buffer(_bounds(index or (), target.shape)),
            )
        else:
            # Such as the step count of an optimizer, which JAX may still move to all devices.
            built = jnp.array(self._buffer(_bounds((), target.shape)))
        self._buffers = {}
        return built

    def _buffer(self, region: Bounds) -> np.ndarray:
        if region not in self._buffers:
            shape = tuple(b - a for a, b in region)
            self._buffers[region] = np.empty(shape, self._target.dtype)
        return self._buffers[region]


def _named(state: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path, in the order of the pytree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _data(leaf: Any) -> jax.Array:
    """Return a leaf as a plain array; a random key becomes its integers."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    data: jax.Array = jax.random.key_data(leaf) if is_key else leaf
    return data


def _with_data(leaf: Any, data: jax.Array) -> Any:
    """Return data as a leaf of the same kind; the inverse of `_data`."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return data


def _describe(array: jax.Array) -> StoredArray:
    return StoredArray(dtype=array.dtype.name, shape=array.shape)


def _own_pieces(name: str, array: jax.Array, file_bytes: int) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield the pieces of an array that this process stores; one process stores each element."""
    if array.is_fully_addressable and jax.process_index() > 0:
        return  # an array of this process alone has the same value in all processes
    for shard in array.addressable_shards:
        if shard.replica_id != 0:
            continue
        values = np.asarray(shard.data)
        if shard.device.platform == "cpu":
            values = values.copy()  # there, JAX returns a view of the buffer
        start = tuple(a for a, _ in _bounds(shard.index, array.shape))
        yield from _cut(name, start, values, file_bytes)


def _cut(
    name: str, start: tuple[int, ...], values: np.ndarray, file_bytes: int
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Cut a shard along its first dimension into pieces of at most `file_bytes`, if it can be."""
    if values.nbytes <= file_bytes:
        yield Piece(array=name, start=start, shape=values.shape), values
        return
    rows = max(1, file_bytes * len(values) // values.nbytes)
    for first in range(0, len(values), rows):
        part = values[first : first + rows]
        yield Piece(array=name, start=(start[0] + first, *start[1:]), shape=part.shape), part


def _groups(
    pieces: Iterable[tuple[Piece, np.ndarray]], file_bytes: int
) -> Iterator[list[tuple[Piece, np.ndarray]]]:
    """Group pieces, in order, into files of at most `file_bytes` of data."""
    group: list[tuple[Piece, np.ndarray]] = []
    for piece, values in pieces:
        if group and sum(v.nbytes for _, v in group) + values.nbytes > file_bytes:
            yield group
            group = []
        group.append((piece, values))
    if group:
        yield group


def _read_tensors(file: CheckpointFile, folder: str) -> dict[str, bytes]:
    """Read a file, verified, as tensor name -> bytes."""
    data = files.read_verified(
        paths.join(folder, file.name),
        expected_bytes=file.size_bytes,
        expected_sha256=file.sha256,
    )
    tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return {name: found["data"] for name, found in tensors}


def _check_arrays(
    manifest: CheckpointManifest, targets: Mapping[str, jax.Array], folder: str
) -> None:
    wanted = {name: _describe(array) for name, array in targets.items()}
    for name in sorted(wanted.keys() | manifest.arrays.keys()):
        found, expected = manifest.arrays.get(name), wanted.get(name)
        if found != expected:
            raise DataError(
                f"{folder}: {name} is {_words(found)}, expected {_words(expected)}; the checkpoint"
                " is of another model or optimizer, delete it"
            )


def _words(array: StoredArray | None) -> str:
    return f"{array.dtype} {list(array.shape)}" if array else "missing"


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    """Return (first, end) of each dimension of a shard's index."""
    whole = (*index, *(slice(None),) * (len(shape) - len(index)))
    return tuple(one.indices(size)[:2] for one, size in zip(whole, shape, strict=True))


def _overlap(region: Bounds, piece: Piece) -> Bounds | None:
    """Return the bounds that a region and a piece have in common, or None."""
    common = tuple(
        (max(a, start), min(b, start + size))
        for (a, b), start, size in zip(region, piece.start, piece.shape, strict=True)
    )
    return common if all(a < b for a, b in common) else None
