"""Write a training state as pieces of arrays in safetensors files.

Each process stores the shards of its own devices, so no process ever needs the whole state. A
large array is cut into pieces, so an upload holds one file at a time on the local disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from tuneloop.storage import files, paths
from tuneloop.training.sft.checkpoint.arrays import bounds_of, describe, named, numbers_of
from tuneloop.training.sft.checkpoint.manifest import (
    CheckpointFile,
    Piece,
    ProcessFiles,
    StoredArray,
)

FILE_BYTES = 32 << 20
"""Largest size of a file's data; an upload holds about three times as much in memory."""


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
    arrays = {name: numbers_of(leaf) for name, leaf in named(state).items()}
    for array in arrays.values():
        array.copy_to_host_async()
    return Snapshot(
        {name: describe(array) for name, array in arrays.items()},
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
        start = tuple(a for a, _ in bounds_of(shard.index, array.shape))
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
