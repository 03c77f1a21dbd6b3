"""Lower and compile a training step, and read its memory, operations and collectives."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import jax
from flax import nnx

from tuneloop import provenance
from tuneloop.specs.training.compilation import PACKAGES, CompiledStep, CompileRequest
from tuneloop.training.compile.abstract_step import AbstractStep, Placement, build_abstract_step
from tuneloop.training.compile.collectives import count_collectives
from tuneloop.training.compile.topology import find_devices
from tuneloop.training.step.mesh import build_mesh, places_of
from tuneloop.training.step.update import StepOptions, update
from tuneloop.validation import shorten

_USED = re.compile(r"Used ([0-9.]+)([KMGT]) of|temporaries \(([0-9.]+)([KMGT])\)")
"""Memory that a program needs, in the compiler's refusal."""
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_step(request: CompileRequest) -> CompiledStep:
    """Compile the training step of a run for its accelerator; nothing is executed.

    Args:
        request: model, train spec and devices.

    Raises:
        SpecError: the topology is unknown, or the mesh does not fit the devices.
        Unavailable: the GPUs are missing.
    """
    devices = find_devices(request.target)
    mesh = build_mesh(request.train.mesh, devices) if len(devices) > 1 else None
    placement = Placement(devices[0], mesh)
    started = time.perf_counter()
    step = build_abstract_step(request.train, request.architecture, placement, steps=request.steps)
    with _as_on(devices, mesh):
        lowered = _lower(request, step, mesh)
    seconds = {"lower_seconds": time.perf_counter() - started}
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        found = _USED.search(str(e))
        if "RESOURCE_EXHAUSTED" not in str(e) or found is None:
            raise
        seconds["compile_seconds"] = time.perf_counter() - started
        return _refused(step, str(e), found, seconds)
    seconds["compile_seconds"] = time.perf_counter() - started
    return _result(compiled, seconds)


def _lower(request: CompileRequest, step: AbstractStep, mesh: Any) -> Any:
    places = places_of(step.model, step.optimizer) if mesh is not None else None
    options = StepOptions.from_spec(request.train, 0, mesh)
    # The same call as in sft/trainer.py.
    function = nnx.jit(
        functools.partial(update, options=options, places=places),
        donate_argnames=("model", "optimizer"),
    )
    return function.lower(step.model, step.optimizer, step.inputs)


@contextmanager
def _as_on(devices: list[Any], mesh: Any) -> Iterator[None]:
    """Let Tunix's models see these devices; on a CPU they would not split their activations."""
    with mock.patch.object(jax, "devices", lambda *_: devices), mesh or nullcontext():
        yield


def _refused(
    step: AbstractStep, message: str, found: re.Match[str], seconds: dict[str, float]
) -> CompiledStep:
    amount, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return CompiledStep(
        argument_bytes=_argument_bytes(step),
        peak_bytes=int(float(amount) * _UNITS[unit]),
        refused=shorten(message, 200),
        versions=provenance.versions_of(PACKAGES),
        **seconds,
    )


def _argument_bytes(step: AbstractStep) -> int:
    arrays = jax.tree.leaves((nnx.state(step.model), nnx.state(step.optimizer), step.inputs))
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in arrays
    )


def _result(compiled: Any, seconds: dict[str, float]) -> CompiledStep:
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return CompiledStep(
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        compiler_flops=cost.get("flops"),
        compiler_bytes=cost.get("bytes accessed"),
        collectives=count_collectives(compiled.as_text()),
        versions=provenance.versions_of(PACKAGES),
        **seconds,
    )
