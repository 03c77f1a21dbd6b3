"""Read a training state from a checkpoint, array by array.

The old values may be gone by then: only their layout is needed. Files are verified as they are
read, and host memory holds one file and the arrays that are not complete yet.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint.arrays import (
    ArrayLayout,
    Bounds,
    bounds_of,
    named,
    overlap,
)
from tuneloop.training.sft.checkpoint.manifest import (
    CheckpointFile,
    CheckpointManifest,
    Piece,
    StoredArray,
)


def check_arrays(manifest: CheckpointManifest, layout: Any, folder: str) -> None:
    """Check that a checkpoint holds the arrays of a state.

    Args:
        manifest: the checkpoint's manifest.
        layout: layouts of a whole state, or of one of its top groups, such as the model.
        folder: URL of the checkpoint's folder, for the error.

    Raises:
        DataError: an array is missing, unknown or of another shape or dtype.
    """
    wanted = {name: leaf.stored for name, leaf in named(layout).items()}
    groups = {_group(name) for name in wanted}
    stored = {name for name in manifest.arrays if _group(name) in groups}
    for name in sorted(wanted.keys() | stored):
        found, expected = manifest.arrays.get(name), wanted.get(name)
        if found != expected:
            raise DataError(
                f"{folder}: {name} is {_words(found)}, expected {_words(expected)}; the checkpoint"
                " is of another model or optimizer, delete it"
            )


def read_state(manifest: CheckpointManifest, folder: str, layout: Any) -> Any:
    """Read a state from a checkpoint; each process reads only files that it needs.

    Args:
        manifest: the checkpoint's manifest.
        folder: URL of the checkpoint's folder.
        layout: a pytree of layouts that `check_arrays` has accepted.

    Returns:
        A pytree of arrays with the stored values.

    Raises:
        DataError: a file is missing or differs from the manifest.
    """
    leaves = named(layout)
    arriving = {name: _Arriving(leaf) for name, leaf in leaves.items()}
    complete: dict[str, jax.Array] = {}
    # The files of all processes in parallel, so that the shards of an array arrive together.
    for file in sorted(manifest.files, key=lambda file: file.name.rpartition("-")[2]):
        wanted = [p for p in file.pieces if p.array in arriving and arriving[p.array].needs(p)]
        if not wanted:
            continue
        tensors = _read_tensors(file, folder)
        for piece in wanted:
            array = arriving[piece.array]
            array.add(piece, _values_of(piece, array.dtype, tensors, file, folder))
            if array.missing == 0:
                complete[piece.array] = array.build()
    for name, array in arriving.items():
        if array.missing:
            raise DataError(
                f"{folder}: holds only a part of {name}, expected all of it; delete this checkpoint"
            )
        if name not in complete:  # an array without elements, which no file holds
            complete[name] = array.build()
    return jax.tree.unflatten(jax.tree.structure(layout), [complete[name] for name in leaves])


class _Arriving:
    """The parts of one array that this process needs, filled piece by piece."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._layout, self._shape = layout, layout.stored.shape
        self.dtype = np.dtype(layout.stored.dtype)
        regions = layout.sharding.addressable_devices_indices_map(self._shape).values()
        # Several devices may hold the same region; it is read once.
        self._regions = {bounds_of(index or (), self._shape) for index in regions}
        self._buffers: dict[Bounds, np.ndarray] = {}
        self.missing = sum(math.prod(b - a for a, b in region) for region in self._regions)
        """Elements that have not arrived."""

    def needs(self, piece: Piece) -> bool:
        return any(overlap(region, piece) is not None for region in self._regions)

    def add(self, piece: Piece, values: np.ndarray) -> None:
        for region in self._regions:
            common = overlap(region, piece)
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
        """Place the array on its devices and release the host memory."""
        built: jax.Array
        if self._layout.is_committed:
            built = jax.make_array_from_callback(
                self._shape,
                self._layout.sharding,
                lambda index: self._buffer(bounds_of(index or (), self._shape)),
            )
        else:
            built = jnp.array(self._buffer(bounds_of((), self._shape)))
        self._buffers = {}
        if self._layout.key_impl is not None:
            built = jax.random.wrap_key_data(built, impl=self._layout.key_impl)
        return built

    def _buffer(self, region: Bounds) -> np.ndarray:
        if region not in self._buffers:
            shape = tuple(b - a for a, b in region)
            self._buffers[region] = np.empty(shape, self.dtype)
        return self._buffers[region]


def _read_tensors(file: CheckpointFile, folder: str) -> dict[str, bytes]:
    """Read a file, verified, as tensor name -> bytes."""
    data = files.read_verified(
        paths.join(folder, file.name),
        expected_bytes=file.size_bytes,
        expected_sha256=file.sha256,
    )
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as e:
        raise DataError(f"{folder}: {file.name} is no safetensors file ({e}); delete it") from e
    return {name: found["data"] for name, found in tensors}


def _values_of(
    piece: Piece, dtype: np.dtype, tensors: dict[str, bytes], file: CheckpointFile, folder: str
) -> np.ndarray:
    data = tensors.get(piece.tensor)
    if data is None or len(data) != math.prod(piece.shape) * dtype.itemsize:
        found = "is missing" if data is None else f"holds {len(data)} bytes"
        raise DataError(
            f"{folder}: {piece.tensor} of {file.name} {found}, expected {dtype.name}"
            f" {list(piece.shape)}; delete this checkpoint"
        )
    # safetensors' own NumPy reader knows no bfloat16.
    return np.frombuffer(data, dtype).reshape(piece.shape)


def _group(name: str) -> str:
    return name.partition("/")[0]


def _words(array: StoredArray | None) -> str:
    return f"{array.dtype} {list(array.shape)}" if array else "missing"
