"""Devices of a TPU topology, or of this machine, to compile a program for."""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental import topologies

from tuneloop.errors import SpecError, Unavailable
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.validation import shorten

_HOST_BOUNDS = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}
"""Chips of one host -> their arrangement. Without it, libtpu assumes the largest host."""


def find_devices(target: TargetDevices) -> list[Any]:
    """Return the devices that a program is compiled for.

    Args:
        target: the accelerator. TPUs are described by libtpu and need not be present; GPUs must be.

    Raises:
        SpecError: libtpu does not know the topology.
        Unavailable: there is no libtpu, or this machine does not have the GPUs.
    """
    if target.platform == "gpu":
        return _local_gpus(target.devices)
    options: dict[str, Any] = {"num_slices": target.slices} if target.slices > 1 else {}
    if target.chips_per_host in _HOST_BOUNDS:
        options["chips_per_host_bounds"] = _HOST_BOUNDS[target.chips_per_host]
    if target.family == "v4":
        options["chip_config_name"] = "megacore"  # two cores that are one device, as JAX has them
    name = f"{target.family.removesuffix('-device')}:{target.topology}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError as e:
        raise SpecError(
            f"accelerator {target.name}: libtpu refuses topology {name}: {shorten(str(e))};"
            " choose another topology, or plan without --compile"
        ) from e
    devices = list(found.devices)
    if len(devices) != target.devices:
        raise SpecError(
            f"accelerator {target.name}: libtpu describes {len(devices)} devices, expected"
            f" {target.devices}; correct the row of the accelerator table"
        )
    return devices


def _local_gpus(count: int) -> list[Any]:
    try:
        devices = jax.devices("gpu")
    except RuntimeError as e:
        raise Unavailable(
            "plan --compile: this machine has no GPU that JAX can use, which compiling for GPUs"
            " needs; run it on a machine with that GPU, or plan without --compile"
        ) from e
    if len(devices) < count:
        raise Unavailable(
            f"plan --compile: this machine has {len(devices)} GPUs, expected {count}; run it on a"
            " machine of that shape, or plan without --compile"
        )
    return list(devices[:count])
