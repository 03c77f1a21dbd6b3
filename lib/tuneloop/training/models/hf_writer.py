"""Write weights as safetensors files in Hugging Face layout.

Equal weights give equal bytes: tensors are in a fixed order, and there are no times in the file.
Tensors are written one after another, so that a model is never in memory a second time.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_layout import (
    DTYPES,
    INDEX,
    WEIGHTS,
    CheckpointFiles,
    StoredTensor,
)
from tuneloop.training.models.naming import EMBEDDING, LM_HEAD, NameStyle, name_style, rule_of

MAX_SHARD_BYTES = 5_000_000_000
"""Size of a weights file above which the model is written as several files with an index."""
_BLOCK_BYTES = 32 << 20
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DTYPE_ORDER = "U64 I64 F64 F32 U32 I32 BF16 F16 U16 I16 I8 U8 BOOL".split()


class ByteSink(Protocol):
    """A file that is open for writing."""

    def write(self, data: bytes) -> Any:
        """Append bytes."""


OpenFile = Callable[[str], AbstractContextManager[ByteSink]]
"""Name of a file -> context manager that yields the open file."""


@dataclass(frozen=True)
class OutgoingTensor:
    """A tensor that is about to be written."""

    name: str
    dtype_name: str
    """Name of the dtype in safetensors, such as `BF16`."""
    shape: tuple[int, ...]
    size_bytes: int
    read: Callable[[], Iterator[bytes]]
    """Return the content in pieces, in C order and little endian."""


def outgoing_array(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], read: Callable[[], np.ndarray]
) -> OutgoingTensor:
    """Describe a tensor that is computed when it is written.

    Args:
        name: name in the file.
        dtype: dtype in the file.
        shape: shape of the array that `read` returns.
        read: called once; the array may have another dtype and any strides.

    Raises:
        DataError: the dtype is none of a checkpoint.
    """
    if dtype not in _DTYPE_NAMES:
        raise DataError(
            f"tensor {name}: has dtype {dtype}, expected one of"
            f" {', '.join(each.name for each in _DTYPE_NAMES)}; train with one of these"
        )
    size = math.prod(shape) * dtype.itemsize

    def pieces() -> Iterator[bytes]:
        array = read()
        rows = max(1, _BLOCK_BYTES // max(1, size // max(1, shape[0] if shape else 1)))
        for start in range(0, shape[0] if shape else 1, rows):
            part = array[start : start + rows] if shape else array
            yield np.ascontiguousarray(part, dtype).tobytes()

    return OutgoingTensor(name, _DTYPE_NAMES[dtype], shape, size, pieces)


def outgoing_params(
    params: Mapping[str, Any],
    architecture: Architecture,
    base: CheckpointFiles | None = None,
    dtype: str | None = None,
) -> list[OutgoingTensor]:
    """Describe the tensors of a model, under the names of the checkpoint it comes from.

    Args:
        params: numpy or JAX arrays by dotted parameter name. In a process group every process
            passes its arrays and reads every tensor, because the shards are gathered.
        architecture: family and shape.
        base: the checkpoint that the model was loaded from. Its names, its dtypes, a second copy
            of a tied embedding and the tensors of its vision model are kept. Null gives the names
            of transformers.
        dtype: dtype of all weights; null keeps that of the base's tensor, or of the parameter.

    Returns:
        One entry per tensor. A tensor that is loaded and written unchanged has the same bits.
    """
    before: Mapping[str, StoredTensor] = {} if base is None else base.tensors
    style = name_style(before) if base is not None else NameStyle()
    found: dict[str, OutgoingTensor] = {}
    for param, array in params.items():
        rule = rule_of(architecture.family, param)
        shape = rule.tensor_shape(tuple(array.shape))
        for position, standard in enumerate(rule.tensors):
            names = [style.stored_name(standard)]
            head = style.stored_name(LM_HEAD)
            if standard == EMBEDDING and architecture.tied_embeddings and head in before:
                names.append(head)
            for name in names:
                stored = before[name].dtype if name in before else np.dtype(array.dtype)
                wanted = np.dtype(dtype) if dtype else stored
                read = _reader(rule, array, position)
                found[name] = outgoing_array(name, wanted, shape, read)
    for name, tensor in before.items():
        if name not in found:
            found[name] = _copied(tensor)
    return list(found.values())


def _reader(rule: Any, array: Any, position: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        view: np.ndarray = rule.tensor_views(host_array(array))[position]
        return view

    return read


def host_array(array: Any) -> np.ndarray:
    """Copy an array to the host; in a process group every process makes the same call."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if array.is_fully_replicated:
        # JAX would keep the host copy together with the array; this object is dropped at once.
        return np.asarray(array.addressable_data(0))
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _copied(tensor: StoredTensor) -> OutgoingTensor:
    size = tensor.stop - tensor.start

    def pieces() -> Iterator[bytes]:
        for _, _, data in tensor.blocks(range(size), 1):
            yield data.tobytes()

    return OutgoingTensor(tensor.name, tensor.dtype_name, tensor.shape, size, pieces)


def write_weights(
    tensors: Iterable[OutgoingTensor],
    open_file: OpenFile,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Write tensors as one safetensors file, or as several with an index.

    Args:
        tensors: what to write, in any order.
        open_file: opens each file once; a file is complete when its block ends without an error.
        max_shard_bytes: largest size of the tensors of one file; a single larger tensor has a
            file of its own.

    Returns:
        Names of the files, in the order written.
    """
    shards = _split(sorted(tensors, key=lambda each: each.name), max_shard_bytes)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with open_file(name) as file:
            _write_file(shard, file)
    if len(shards) == 1:
        return names
    weight_map = {
        each.name: name for name, shard in zip(names, shards, strict=True) for each in shard
    }
    total = sum(each.size_bytes for shard in shards for each in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    with open_file(INDEX) as file:
        file.write(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
    return [*names, INDEX]


def _split(tensors: Sequence[OutgoingTensor], limit: int) -> list[list[OutgoingTensor]]:
    shards: list[list[OutgoingTensor]] = [[]]
    size = 0
    for each in tensors:
        if shards[-1] and size + each.size_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(each)
        size += each.size_bytes
    return shards


def _write_file(tensors: Sequence[OutgoingTensor], file: ByteSink) -> None:
    # In the order of the safetensors package: wide dtypes first, so that every tensor is aligned.
    ordered = sorted(tensors, key=lambda each: (_DTYPE_ORDER.index(each.dtype_name), each.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for each in ordered:
        end = offset + each.size_bytes
        header[each.name] = {
            "dtype": each.dtype_name,
            "shape": list(each.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for each in ordered:
        for piece in each.read():
            file.write(piece)
