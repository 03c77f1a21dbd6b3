"""The states that a stage on a cluster can be in, and the verdict that names one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal[
    # It is done, or goes on.
    "Succeeded",
    "Queued",
    "Provisioning",
    "Pulling",
    "Running",
    "Restarting",
    # It cannot start.
    "Unschedulable",
    "Stockout",
    "QuotaExceeded",
    "ImageError",
    "ConfigError",
    # It has ended without a record.
    "SucceededNoOutput",
    "UserError",
    "DataError",
    "OutOfMemory",
    "Evicted",
    "Preempted",
    "NodeLost",
    "AdmissionRejected",
    "Crashed",
    "Transient",
    "Stuck",
    "DeadlineExceeded",
    "Deleted",
    "Unknown",
]


@dataclass(frozen=True)
class Verdict:
    """What a stage is at, why, and what to do."""

    state: State
    cause: str
    """One sentence."""
    fix: str = ""
    """What to do; empty where waiting is all there is to do."""
    evidence: tuple[str, ...] = ()
    """Lines as the cluster said them."""
    exit_code: int | None = None
    """Of the verb; None: it may still succeed, keep waiting."""

    @property
    def is_final(self) -> bool:
        """Whether waiting is over."""
        return self.exit_code is not None
