"""Read the weights of a folder in Hugging Face layout, on a local disk or in an object store.

The headers of the safetensors files are read and checked at once; tensors are read later, in
pieces. Local files are mapped into memory; of other files, only the needed ranges are fetched.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from tuneloop.errors import DataError, InputMissing, Transient
from tuneloop.storage import files, paths
from tuneloop.validation import shorten

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Supported dtypes of weights, by their names in safetensors."""
_OTHER_DTYPES = {"F64", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
_OTHER_SIZES = {"64": 8, "32": 4, "16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format, which keeps a broken length from exhausting the memory."""
_BLOCK_BYTES = 32 << 20
"""Size of the pieces in which `StoredTensor.blocks` reads; each piece is held in memory."""


@dataclass
class TensorFile:
    """One safetensors file, read in ranges of bytes."""

    url: str
    size_bytes: int
    bytes_read: int = 0
    """Number of bytes of tensors that were read from this file so far."""
    _map: mmap.mmap | None = field(default=None, repr=False)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read a range of the file.

        Returns:
            uint8 (stop - start,), read-only; a view of the mapped file if it is local.
        """
        self.bytes_read += stop - start
        local = files.local_path(self.url)
        if local is None:
            return np.frombuffer(read_exactly(self.url, start, stop), np.uint8)
        if stop == start:  # an empty file cannot be mapped
            return np.frombuffer(b"", np.uint8)
        if self._map is None:
            with open(local, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8, stop - start, start)

    def release(self, start: int, stop: int) -> None:
        """Take the pages of a range out of this process's memory; they can be read again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first, stop - first)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, not read yet."""

    name: str
    dtype_name: str
    """Name of the dtype in safetensors, such as `BF16`."""
    shape: tuple[int, ...]
    file: TensorFile
    start: int
    """Offset of the first byte in the file."""
    stop: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype.

        Raises:
            DataError: weights of this dtype are not supported.
        """
        if self.dtype_name not in DTYPES:
            raise DataError(
                f"{self.file.url}: tensor {self.name} has dtype {self.dtype_name}, which tuneloop"
                f" does not support, expected one of {', '.join(DTYPES)}; use a checkpoint that is"
                " not quantized"
            )
        return DTYPES[self.dtype_name]

    def array(self) -> np.ndarray:
        """Read the whole tensor; a read-only view of the mapped file if it is local."""
        return self.file.read(self.start, self.stop).view(self.dtype).reshape(self.shape)

    def raw(self) -> bytes:
        """Read the bytes of a tensor of any dtype."""
        return self.file.read(self.start, self.stop).tobytes()

    def blocks(self, rows: range, row_bytes: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Read rows in pieces of bounded size.

        Args:
            rows: consecutive numbers of rows; the tensor is cut into rows of equal size.
            row_bytes: size of a row.

        Yields:
            (first row, last row + 1, uint8 array of these rows). An array is valid until the next
            one is read.
        """
        step = max(1, _BLOCK_BYTES // max(1, row_bytes))
        for first in range(rows.start, rows.stop, step):
            last = min(first + step, rows.stop)
            span = (self.start + first * row_bytes, self.start + last * row_bytes)
            yield first, last, self.file.read(*span)
            self.file.release(*span)


@dataclass(frozen=True)
class CheckpointFiles:
    """The weights of a folder in Hugging Face layout."""

    url: str
    tensors: Mapping[str, StoredTensor]
    """Tensors by name, in sorted order."""
    files: tuple[TensorFile, ...]
    weight_map: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name of a tensor -> name of the file that holds it, as the index says; empty without one."""

    def home_of(self, name: str) -> str:
        """Return the URL of the file that should hold a tensor."""
        if name in self.weight_map:
            return paths.join(self.url, self.weight_map[name])
        return self.files[0].url if len(self.files) == 1 else self.url

    @property
    def bytes_read(self) -> int:
        """Number of bytes of tensors that were read so far."""
        return sum(each.bytes_read for each in self.files)


def open_folder(url: str, names: Iterable[str] | None = None) -> CheckpointFiles:
    """Read and check the headers of all safetensors files of a folder.

    Args:
        url: URL or path of the folder.
        names: names of the files in the folder; null lists it.

    Raises:
        InputMissing: the folder has no safetensors file.
        DataError: a file is torn or malformed, or the index names a file that is missing.
    """
    listed = set(files.list_names(url) if names is None else names)
    names, weight_map = _weight_files(url, listed)
    found = [_open_file(paths.join(url, name)) for name in names]
    tensors: dict[str, StoredTensor] = {}
    for _, stored in found:
        for each in stored:
            if each.name in tensors:
                raise DataError(
                    f"{each.file.url}: tensor {each.name} is also in"
                    f" {tensors[each.name].file.url}, expected each tensor once; copy the model"
                    " again"
                )
            tensors[each.name] = each
    opened = tuple(file for file, _ in found)
    return CheckpointFiles(url, dict(sorted(tensors.items())), opened, weight_map)


def _weight_files(url: str, listed: set[str]) -> tuple[Sequence[str], Mapping[str, str]]:
    """Choose the files as transformers does: one file before an index before any other name."""
    if WEIGHTS in listed:
        return [WEIGHTS], {}
    if INDEX in listed:
        return _indexed_files(paths.join(url, INDEX), listed)
    others = sorted(name for name in listed if name.endswith(".safetensors"))
    if len(others) == 1:
        return others, {}
    found = f"{len(others)} safetensors files and no {INDEX}" if others else "no safetensors file"
    raise InputMissing(
        f"{url}: has {found}, expected {WEIGHTS} or {INDEX} with its files; convert or copy the"
        " model again"
    )


def _indexed_files(url: str, listed: set[str]) -> tuple[Sequence[str], Mapping[str, str]]:
    try:
        weight_map = dict(json.loads(files.read(url))["weight_map"].items())
        named = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(
            f"{url}: found no object weight_map, expected an index of safetensors files; copy the"
            " model again"
        ) from e
    if missing := sorted(map(str, named - listed)):
        raise DataError(
            f"{url}: names {shorten(missing[0])}, which is not in the folder, expected all"
            f" {len(named)} files; copy the model again"
        )
    return sorted(named), weight_map


def read_exactly(url: str, start: int, stop: int) -> bytes:
    """Read a range of a file.

    Raises:
        Transient: fewer bytes came.
    """
    data = files.read_range(url, start, stop)
    if len(data) != stop - start:
        raise Transient(
            f"{url}: received {len(data)} bytes of the range {start} to {stop}, expected"
            f" {stop - start}; run again"
        )
    return data


def _open_file(url: str) -> tuple[TensorFile, list[StoredTensor]]:
    size = files.size_bytes(url)
    if size is None:
        raise DataError(f"{url}: is missing, expected a safetensors file; copy the model again")
    header, data_start = _read_header(url, size)
    file = TensorFile(url, size)
    tensors = [
        _parse_tensor(file, name, entry, data_start)
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    _check_offsets(url, tensors, data_start, size)
    return file, tensors


def _read_header(url: str, size: int) -> tuple[dict[str, Any], int]:
    """Read the JSON header and the offset of the data behind it."""
    length = struct.unpack("<Q", read_exactly(url, 0, 8))[0] if size >= 8 else None
    if length is None or length > min(size - 8, _MAX_HEADER_BYTES):
        header_size = "no header" if length is None else f"a header of {length} bytes"
        raise DataError(
            f"{url}: holds {size} bytes and {header_size}, expected a complete safetensors file;"
            " copy the model again"
        )
    try:
        header = json.loads(read_exactly(url, 8, 8 + length))
    except ValueError as e:
        raise DataError(
            f"{url}: the header is not JSON, expected a safetensors file; copy the model again"
        ) from e
    if not isinstance(header, dict):
        raise DataError(
            f"{url}: the header is {shorten(header)}, expected an object of tensors; copy the model"
            " again"
        )
    return header, 8 + length


def _parse_tensor(file: TensorFile, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(each) for each in entry["shape"])
        first, last = (int(each) for each in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(
            f"{file.url}: tensor {name} is described by {shorten(entry)}, expected dtype, shape and"
            " two data_offsets; copy the model again"
        ) from e
    tensor = StoredTensor(name, dtype, shape, file, data_start + first, data_start + last)
    expected = math.prod(shape) * _item_size(tensor)
    if last - first != expected or min(shape, default=0) < 0:
        raise DataError(
            f"{file.url}: tensor {name} has {last - first} bytes, expected {expected} for"
            f" {dtype} {shape}; copy the model again"
        )
    return tensor


def _item_size(tensor: StoredTensor) -> int:
    if tensor.dtype_name in _OTHER_DTYPES:
        return next(n for end, n in _OTHER_SIZES.items() if tensor.dtype_name.endswith(end))
    return tensor.dtype.itemsize


def _check_offsets(url: str, tensors: list[StoredTensor], data_start: int, size: int) -> None:
    """Check that the tensors fill the file without gaps, as the format demands."""
    end, before = data_start, "the header"
    for each in sorted(tensors, key=lambda tensor: (tensor.start, tensor.stop)):
        if each.start != end:
            what = "overlaps" if each.start < end else "leaves a gap after"
            raise DataError(
                f"{url}: tensor {each.name} {what} {before} (it starts at byte {each.start},"
                f" expected {end}); copy the model again"
            )
        end, before = each.stop, each.name
    if end != size:
        what = "is torn" if end > size else "has bytes of no tensor"
        raise DataError(
            f"{url}: {what}, it holds {size} bytes, expected {end} for {len(tensors)} tensors; copy"
            " the model again"
        )
