"""Settings of a verb that runs a spec: they choose the place and never enter a fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Options of a verb for the backend that it chooses; a backend ignores those of others."""

    image: str | None = None
    """Container image, instead of the spec's."""
    allow_tag: bool = False
    """Accept an image without a digest; its reference then names the code."""
    context: str | None = None
    """Context of the kubeconfig; None: its current one."""
    kubeconfig: str | None = None
    """Path of the kubeconfig; None: the pod's own credentials, else the default file."""
    poll_seconds: float = 5.0
    """Seconds between two polls of a cluster."""
    announce: Callable[[str], None] = lambda line: None
    """Called with one line about the place before anything is written there."""


@dataclass(frozen=True)
class Machines:
    """The machines of one stage, for the table of `tuneloop plan`."""

    where: str
    """Namespace, or `local`."""
    accelerator: str
    """Key of a shape, such as cpu or v5e-4x4."""
    hosts: int
    """Pods at once."""
    chips: int
    """Chips of all pods together; 0 on CPU."""
