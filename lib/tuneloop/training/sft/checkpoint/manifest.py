"""The manifest of a checkpoint: its arrays, and the files that hold them piece by piece."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tuneloop.errors import DataError
from tuneloop.storage import paths
from tuneloop.storage.sealed import Sealed, sealed
from tuneloop.validation import first_error

MANIFEST = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Piece(_Part):
    """A rectangular part of one array, stored as one tensor of a safetensors file."""

    array: str
    """Name of the array."""
    start: tuple[int, ...]
    """Position of the first element in the array, one index per dimension."""
    shape: tuple[int, ...]
    """Shape of the piece."""

    @property
    def tensor(self) -> str:
        """Name of the tensor in the file."""
        return f"{self.array}@{','.join(map(str, self.start))}"


class CheckpointFile(_Part):
    """One safetensors file of a checkpoint."""

    name: str
    """Path below the folder of the checkpoint."""
    size_bytes: int
    sha256: str
    pieces: tuple[Piece, ...]
    """The tensors of the file."""


class ProcessFiles(_Part, Sealed):
    """The files that one process has stored."""

    files: tuple[CheckpointFile, ...]


class StoredArray(_Part):
    """Dtype and shape of one array."""

    dtype: str
    """Name of the dtype, such as `float32`."""
    shape: tuple[int, ...]
    """Shape of the whole array, over all processes."""


class CheckpointManifest(_Part, Sealed):
    """Content of a checkpoint's `manifest.json`."""

    step: int
    """Number of optimizer steps that the state includes."""
    arrays: dict[str, StoredArray]
    """All arrays of the model and the optimizer, by name."""
    files: tuple[CheckpointFile, ...]
    """Files of all processes."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> CheckpointManifest:
        for file in self.files:
            if not paths.is_below(file.name):
                raise ValueError(f"the path {file.name[:60]!r} leads out of the checkpoint")
        for piece in (piece for file in self.files for piece in file.pieces):
            array = self.arrays.get(piece.array)
            if array is None or not _fits(piece, array):
                raise ValueError(f"{piece.tensor} is no part of an array of this manifest")
        return self


def _fits(piece: Piece, array: StoredArray) -> bool:
    if not len(piece.start) == len(piece.shape) == len(array.shape):
        return False
    ends = zip(piece.start, piece.shape, array.shape, strict=True)
    return all(start >= 0 and start + size <= whole for start, size, whole in ends)


def dump_manifest(manifest: CheckpointManifest | ProcessFiles) -> bytes:
    """Serialize a manifest, or the list of one process's files."""
    return json.dumps(sealed(manifest.model_dump(mode="json"))).encode() + b"\n"


def parse_manifest(data: bytes, place: str) -> CheckpointManifest:
    """Parse a checkpoint's manifest.

    Raises:
        DataError: it is not one.
    """
    try:
        return CheckpointManifest.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{place}: {first_error(e)}, expected the manifest of a checkpoint; delete it"
        ) from e
