"""Command-line settings of a run: they choose where it runs and never enter a fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Options for the chosen backend; a backend ignores the options of others."""

    image: str | None = None
    """Container image that replaces the image of the spec; None keeps it."""
    allow_tag: bool = False
    """Accept an image without a digest; its tag then identifies the code."""
    context: str | None = None
    """Context of the kubeconfig; None uses its current context."""
    kubeconfig: str | None = None
    """Path of the kubeconfig; None uses the pod's credentials in a pod, else the default file."""
    poll_seconds: float = 5.0
    """Seconds between polls of the cluster."""
    announce: Callable[[str], None] = lambda line: None
    """Called with one line that names the target before anything is written."""


@dataclass(frozen=True)
class Machines:
    """The machines of one stage, for the table that `tuneloop plan` prints."""

    where: str
    """Namespace of the cluster, or `local`."""
    accelerator: str
    """Machine shape, such as `cpu` or `v5e-4x4`."""
    hosts: int
    """Pods that run at the same time."""
    chips: int
    """Chips of all pods together; 0 on CPU."""
    memory: str | None = None
    """Memory request of one pod; None on this machine."""
    deadline_seconds: int | None = None
    """Seconds that the stage may take in total; None on this machine."""


@dataclass(frozen=True)
class StageNeeds:
    """Estimates for one stage, from which the defaults of its pods follow."""

    memory_bytes: int | None = None
    """Host memory of one pod; None if it is not estimated."""
    seconds: float | None = None
    """Least time of all work in one pod or one gang; None if it is not known."""
