"""What the devices of this process can do, and how much memory they have."""

from __future__ import annotations

import jax


def device_count() -> int:
    """Return the number of devices of this process; each of them holds all weights."""
    return len(jax.local_devices())


def rounds_alike() -> bool:
    """Whether this device rounds the sums of a row alike in batches of every size."""
    on_cpu: bool = jax.default_backend() == "cpu"
    return on_cpu


def device_limit_bytes() -> int | None:
    """Return the memory of this process's device that a program can use; None on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    limit = statistics.get("bytes_limit")
    return None if rounds_alike() or limit is None else int(limit)
