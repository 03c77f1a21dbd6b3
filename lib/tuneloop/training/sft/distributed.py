"""Several processes, or several devices, that train one model together: data parallelism.

One rule: every process builds the same model and the same global batch, and hands JAX the rows of
its own devices. Parameters and optimizer state are replicated, so that a process group's losses are
a lone process's to rounding, and process 0 alone writes what the stage leaves (Orbax apart).
"""

from __future__ import annotations

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
from jax.sharding import PartitionSpec as P

from tuneloop.errors import SpecError, Transient

log = logging.getLogger(__name__)

AXIS = "fsdp"
"""Tunix's name for the axis that batches are split over."""
INITIALIZATION_SECONDS = 900
"""Slices of a multislice run start minutes apart."""
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 30


@dataclass(frozen=True)
class ProcessGroup:
    """The devices that train together."""

    process_count: int
    mesh: Mesh | None
    """All devices of all processes on one axis; None: a single device, nothing is placed."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make Tunix see the mesh."""
        if self.mesh is None:
            yield
            return
        with self.mesh:
            yield

    def check_batch(self, batch_size: int) -> None:
        """SpecError unless every device gets as many rows: Tunix would replicate them silently."""
        if self.mesh is not None and batch_size % self.mesh.size:
            raise SpecError(
                f"train.batch_size: {batch_size} rows do not divide among {self.mesh.size} devices;"
                f" choose a multiple of {self.mesh.size}"
            )

    def replicate(self, model: Any) -> None:
        """Put every parameter on all devices, in place."""
        if self.mesh is None:
            return
        everywhere = NamedSharding(self.mesh, P())  # type: ignore[no-untyped-call]
        for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            value = np.asarray(variable.get_value())
            placed = jax.make_array_from_callback(value.shape, everywhere, value.__getitem__)
            variable.set_value(placed)
            # Tunix would shard the optimizer state by these names, and the gradients with it.
            for name in ("sharding_names", "out_sharding", "sharding"):
                if name in variable.get_metadata():
                    variable.del_metadata(name)

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Make global arrays of a global batch, split by rows; each process gives its own rows."""
        if self.mesh is None:
            return dict(batch)
        by_rows = NamedSharding(self.mesh, P(AXIS))  # type: ignore[no-untyped-call]
        return {
            name: jax.make_array_from_callback(rows.shape, by_rows, rows.__getitem__)
            for name, rows in batch.items()
        }

    def should_stop(self, step: int, asked: bool) -> bool:
        """Whether all processes stop before this step; asked on each of them at every step.

        With several processes XLA's own notifier takes SIGTERM and has all agree on a step.
        """
        if self.process_count == 1:
            return asked
        return bool(multihost_utils.reached_preemption_sync_point(step))

    def meet(self, name: str) -> None:
        """Wait until every process is here."""
        if self.process_count > 1:
            multihost_utils.sync_global_devices(name)


def join() -> ProcessGroup:
    """Find the other processes, as the environment tells (see `k8s/pod.py`).

    TUNELOOP_PROCESSES is how many there are; absent, this one is alone. Off TPU
    TUNELOOP_COORDINATOR and TUNELOOP_PROCESS_ID say where and who; on TPU JAX knows both.

    Raises:
        Transient: the others did not come in time.
    """
    processes = int(os.environ.get("TUNELOOP_PROCESSES", "1"))
    if processes > 1:
        try:
            _initialize(processes)
        except RuntimeError as e:
            raise Transient(
                f"process group of {processes}: not all processes have joined: {e}"
            ) from e
        log.info("process %d of %d has joined", jax.process_index(), processes)
    devices = jax.devices()
    mesh = Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None
    return ProcessGroup(processes, mesh)


def _initialize(processes: int) -> None:
    timeouts: dict[str, Any] = {
        "initialization_timeout": INITIALIZATION_SECONDS,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    if os.environ.get("JAX_PLATFORMS", "").startswith("tpu"):
        jax.distributed.initialize(**timeouts)
        return
    # No effect on GPUs; without it CPU processes cannot exchange anything.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
    jax.distributed.initialize(
        coordinator_address=os.environ["TUNELOOP_COORDINATOR"],
        num_processes=processes,
        process_id=int(os.environ["TUNELOOP_PROCESS_ID"]),
        # Else an installed Kubernetes client is a wish to ask the API server, without a token.
        cluster_detection_method="deactivate",
        **timeouts,
    )
