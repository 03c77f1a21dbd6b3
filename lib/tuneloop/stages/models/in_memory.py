"""Which models of an evaluation stay in memory while it asks chunk after chunk.

A model that does not fit beside the others is loaded again for each chunk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.sizing.evaluation import USED_SHARE, batch_bytes, weight_bytes
from tuneloop.training.sizing.host_memory import RUNTIME

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of a container, of version 2 and 1 of cgroups."""


@dataclass(frozen=True)
class Devices:
    """The devices of this process."""

    limit_bytes: int | None
    """Memory of one device that a program can use; None on a CPU."""
    count: int


def models_that_stay(
    architectures: Mapping[str, Architecture], room_bytes: float, copies: int
) -> frozenset[str]:
    """Choose as many models as fit, the first ones first.

    Args:
        architectures: name of each model that is asked -> its family and shape, in their order.
        room_bytes: memory for weights, without that of a batch.
        copies: copies of the model in use, at the most.
    """
    weights = {name: weight_bytes(each) for name, each in architectures.items()}
    stays: set[str] = set()
    for name in weights:
        more = stays | {name}
        needed = max(
            copies * own + sum(weights[other] for other in more - {used})
            for used, own in weights.items()
        )
        if needed <= room_bytes:
            stays = more
    return frozenset(stays)


def choose_models_that_stay(
    architectures: Mapping[str, Architecture],
    devices: Devices,
    rows: int,
    prompt_tokens: int,
    new_tokens: int,
) -> frozenset[str]:
    """Choose as many models as fit into the memory of this process's devices.

    Args:
        architectures: name of each model that is asked here -> its family and shape.
        devices: the devices; each of several holds all weights.
        rows: rows of a batch at most.
        prompt_tokens: tokens of the longest prompt.
        new_tokens: tokens of an answer at most.
    """
    # Padding makes a prompt at most half as long again.
    lengths = prompt_tokens * 3 // 2, new_tokens
    batch = max((batch_bytes(each, rows, *lengths) for each in architectures.values()), default=0)
    if devices.limit_bytes is None:
        # A file is read while its arrays are made.
        return models_that_stay(architectures, host_limit_bytes() - RUNTIME - batch, 2)
    # The first of several devices may hold what was loaded and what was copied to all of them.
    copies = 1 if devices.count == 1 else 2
    return models_that_stay(architectures, USED_SHARE * devices.limit_bytes - batch, copies)


def host_limit_bytes() -> float:
    """Return the memory of this process's container, or most of the machine's memory."""
    machine = USED_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, *(_limit(Path(name)) for name in CGROUP_LIMITS))


def _limit(path: Path) -> float:
    try:
        return float(path.read_text("ascii"))
    except (OSError, ValueError):  # no container, or `max`
        return float("inf")
