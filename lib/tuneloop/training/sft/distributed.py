"""Distributed training: several processes or devices train one model.

All devices form a mesh of three axes (`train.mesh`). The rows of a batch are split over `data` and
`fsdp`, the weights and the optimizer state over `fsdp` and `tp`. Every process builds the same
global batch and passes the rows of its own devices to JAX, so the losses equal those of a single
process except for rounding. Only process 0 writes the stage's files, except for checkpoints, which
all processes write.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from tuneloop.errors import DataError, Transient, UsageError
from tuneloop.settings.environment import Settings, read_settings
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.training.models.sharding import (
    is_on_mesh,
    remove_sharding_marks,
    sharding_of,
)
from tuneloop.training.step.mesh import build_mesh, row_spec

log = logging.getLogger(__name__)

INITIALIZATION_SECONDS = 900
"""Seconds to wait for all processes; the slices of a multislice run start minutes apart."""
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 30


@dataclass(frozen=True)
class ProcessGroup:
    """The processes and devices that train together."""

    process_count: int
    mesh: Mesh | None
    """All devices of all processes on the axes data, fsdp and tp. None means a single device, for
    which arrays need no placement."""

    @property
    def device_count(self) -> int:
        """Number of devices of all processes."""
        return 1 if self.mesh is None else self.mesh.size

    @contextmanager
    def active(self) -> Iterator[None]:
        """Enter a context in which Tunix uses the mesh."""
        if self.mesh is None:
            yield
            return
        with self.mesh:
            yield

    def place(self, model: Any) -> None:
        """Put every parameter on its devices, in place: split as its family asks for it.

        Loaded models are there already. Adapters are small and copied to every device.
        """
        if self.mesh is None:
            return
        for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            value = variable.get_value()
            if not is_on_mesh(value, self.mesh):
                values = np.asarray(value)
                sharding = sharding_of(variable, values.shape, self.mesh)
                placed = jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
                variable.set_value(placed)
            remove_sharding_marks(variable)

    def place_batch(self, batch: dict[str, np.ndarray], *, row_axis: int) -> dict[str, Any]:
        """Convert a global batch to global arrays that are split over the devices by rows.

        Args:
            batch: the whole batch, the same in every process; each process places only the rows of
                its own devices.
            row_axis: axis of the arrays that counts the rows.
        """
        if self.mesh is None:
            return dict(batch)
        by_rows = NamedSharding(self.mesh, row_spec(row_axis))
        return {
            name: jax.make_array_from_callback(rows.shape, by_rows, rows.__getitem__)
            for name, rows in batch.items()
        }

    def should_stop(self, number: int, asked: bool) -> bool:
        """Return whether all processes stop now; all of them make the same calls.

        With several processes XLA's own notifier takes SIGTERM and has all agree on a call.

        Args:
            number: number of the call, which rises from call to call.
            asked: whether this process was asked to stop, if it is alone.
        """
        if self.process_count == 1:
            return asked
        return bool(multihost_utils.reached_preemption_sync_point(number))

    def share(self, number: int) -> int:
        """Return the number that process 0 passes; every process makes the same call."""
        if self.process_count == 1:
            return number
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def agree(self, holds: bool) -> bool:
        """Return whether all processes pass true; every process makes the same call."""
        if self.process_count == 1:
            return holds
        return bool(np.all(multihost_utils.process_allgather(np.bool_(holds))))

    def check_same(self, **facts: str) -> None:
        """Check that all processes pass the same texts; every process makes the same call.

        Args:
            facts: name of what must be the same, with `_` for spaces -> text that identifies it.

        Raises:
            DataError: one of them differs.
        """
        if self.process_count == 1:
            return
        own = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in facts.values()]
        words = np.frombuffer(b"".join(own), np.uint32).reshape(len(facts), 2)
        found = np.asarray(multihost_utils.process_allgather(words))
        for number, name in enumerate(facts):
            digests = [each[number].tobytes().hex() for each in found]
            if len(set(digests)) > 1:
                listed = ", ".join(f"process {n}: {each}" for n, each in enumerate(digests))
                raise DataError(
                    f"training: the {name.replace('_', ' ')} differs between the processes"
                    f" (digests of {listed}), expected the same in all; start all of them with the"
                    " same stage spec, image and artifacts"
                )

    def meet(self, name: str) -> None:
        """Wait until every process has reached this call."""
        if self.process_count > 1:
            multihost_utils.sync_global_devices(name)


def join(spec: MeshSpec) -> ProcessGroup:
    """Join the process group that the environment describes (see `k8s/pod.py`).

    TUNELOOP_PROCESSES is the number of processes; without it, this process trains alone. Except on
    TPU, where JAX knows them, TUNELOOP_COORDINATOR is the address of the first process and
    TUNELOOP_PROCESS_ID the number of this one.

    Args:
        spec: how the devices share the model and the batch.

    Raises:
        Transient: not all processes joined in time.
        SpecError: the mesh does not have as many places as there are devices.
    """
    settings = read_settings()
    processes = settings.processes
    if processes > 1:
        try:
            _initialize(settings)
        except RuntimeError as e:
            raise Transient(
                f"process group of {processes}: not all processes have joined: {e}"
            ) from e
        log.info("process %d of %d has joined", jax.process_index(), processes)
    devices = jax.devices()
    return ProcessGroup(processes, build_mesh(spec, devices) if len(devices) > 1 else None)


def _initialize(settings: Settings) -> None:
    timeouts: dict[str, Any] = {
        "initialization_timeout": INITIALIZATION_SECONDS,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    if os.environ.get("JAX_PLATFORMS", "").startswith("tpu"):
        jax.distributed.initialize(**timeouts)
        return
    if settings.coordinator is None or settings.process_id is None:
        raise UsageError(
            f"environment variable TUNELOOP_PROCESSES is {settings.processes}, expected"
            " TUNELOOP_COORDINATOR and TUNELOOP_PROCESS_ID with it; set both, or unset it"
        )
    # CPU processes cannot communicate without this setting. It has no effect on GPUs.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
    jax.distributed.initialize(
        coordinator_address=settings.coordinator,
        num_processes=settings.processes,
        process_id=settings.process_id,
        # Otherwise JAX would use an installed Kubernetes client to ask the API server, for which
        # the pod has no token.
        cluster_detection_method="deactivate",
        **timeouts,
    )
