"""Load a checkpoint in Hugging Face layout into a model, straight to the devices.

All names, shapes and dtypes are checked before anything is allocated. Each process then reads only
the bytes of its own shards, so its memory grows by these shards and one block of a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_layout import CheckpointFiles, StoredTensor
from tuneloop.training.models.naming import TensorRule, name_style, rule_of
from tuneloop.training.models.parameters import param_items
from tuneloop.training.models.registry import family_named
from tuneloop.training.models.sharding import sharding_of
from tuneloop.training.models.tensors import check_tensors, most_common_dtype


@dataclass(frozen=True)
class Source:
    """Where one parameter comes from."""

    rule: TensorRule
    shape: tuple[int, ...]
    tensors: tuple[StoredTensor, ...]
    """One per name in the rule."""
    dtype: np.dtype[Any]
    """Dtype of the parameter."""


def load_model(
    folder: CheckpointFiles,
    architecture: Architecture,
    *,
    dtype: str | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Load a model; every process of a group makes the same call.

    Args:
        folder: opened checkpoint.
        architecture: family and shape, from its `config.json` or manifest.
        dtype: dtype of the parameters, such as `float32`; null keeps the dtypes of the file.
        mesh: devices of all processes, over which each parameter is split as the model's code asks
            for it; null uses the default device.

    Returns:
        The model, with its parameters on the devices.

    Raises:
        DataError: tensors are missing, unknown or misshapen; the message names tensor and file.
        SpecError: the family is unknown.
    """
    check_tensors(folder, architecture)
    compute_dtype = dtype or most_common_dtype(folder)
    model = family_named(architecture.family).module().abstract_model(architecture, compute_dtype)
    variables = {".".join(map(str, path)): variable for path, variable in param_items(model)}
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    sources = _sources(folder, architecture.family, shapes, dtype)
    # The largest parameters first: the copy to the device of one shard is made beside what is
    # already loaded, and the last ones are the smallest.
    for name in sorted(sources, key=lambda name: -_size_bytes(sources[name])):
        variable, source = variables[name], sources[name]
        variable.set_value(_place(source, _sharding(variable, source.shape, mesh)))
    return model


def _sources(
    folder: CheckpointFiles, family: str, shapes: Mapping[str, tuple[int, ...]], dtype: str | None
) -> dict[str, Source]:
    """Find the tensors of each parameter in a checkpoint that `check_tensors` has accepted."""
    style = name_style(folder.tensors)
    sources: dict[str, Source] = {}
    for param, shape in shapes.items():
        rule = rule_of(family, param)
        tensors = tuple(folder.tensors[style.stored_name(name)] for name in rule.tensors)
        # Stacked tensors of two dtypes become the wider one.
        wanted = np.dtype(dtype) if dtype else np.result_type(*(each.dtype for each in tensors))
        sources[param] = Source(rule, shape, tensors, wanted)
    return sources


def _size_bytes(source: Source) -> int:
    return int(np.prod(source.shape)) * source.dtype.itemsize


def _place(source: Source, sharding: Any) -> Any:
    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        return read_slice(source, index or ())

    array: Any = jax.make_array_from_callback(source.shape, sharding, read)
    # Otherwise the host copies of several parameters could be in memory at once.
    return array.block_until_ready()


def read_slice(source: Source, index: tuple[slice, ...]) -> np.ndarray:
    """Read a part of a parameter; only the needed rows of its tensors are read.

    Args:
        source: where the parameter comes from.
        index: one slice per axis of the parameter, with steps of 1.

    Returns:
        A new array of the parameter's dtype.
    """
    bounds = [part.indices(size) for part, size in zip(index, source.shape, strict=True)]
    ranges = [range(start, stop) for start, stop, _ in bounds]
    out = np.empty([len(each) for each in ranges], source.dtype)
    if not source.rule.is_stacked:
        _read_part(source, source.tensors[0], ranges, out)
        return out
    for position, number in enumerate(ranges[0]):
        _read_part(source, source.tensors[number], ranges[1:], out[position])
    return out


def _read_part(
    source: Source, tensor: StoredTensor, ranges: Sequence[range], out: np.ndarray
) -> None:
    """Read a part of one tensor into `out`, which has the parameter's order of axes."""
    order = source.rule.order
    split = source.rule.split_shape(source.shape)
    wanted = [ranges[axis] for axis in order]
    target = out.transpose(order)  # axes in the order of the tensor
    row_bytes = int(np.prod(split[1:])) * tensor.dtype.itemsize
    columns = tuple(slice(each.start, each.stop) for each in wanted[1:])
    first_row = wanted[0].start
    for first, last, data in tensor.blocks(wanted[0], row_bytes):
        rows = data.view(tensor.dtype).reshape(last - first, *split[1:])
        target[first - first_row : last - first_row] = rows[(slice(None), *columns)]


def _sharding(variable: Any, shape: tuple[int, ...], mesh: Mesh | None) -> Any:
    if mesh is None:
        return SingleDeviceSharding(jax.devices()[0])
    return sharding_of(variable, shape, mesh)
