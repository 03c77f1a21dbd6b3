"""Where the stages of a run are executed: the protocol of a backend, and the table of backends.

A new backend is a class with these methods and a row in BACKENDS. `runs` uses nothing else of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, TypeVar, cast

from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.verdict import Verdict
from tuneloop.errors import UsageError
from tuneloop.runs.plan import Plan
from tuneloop.specs.run import RunSpec
from tuneloop.specs.target import Machines, Target

BACKENDS = {
    "local": "tuneloop.runs.local:LocalBackend",
    "kubernetes": "tuneloop.k8s.backend:KubernetesBackend",
}
"""Name -> module and class; the class is a `BackendType` and is imported when it is chosen."""
ALIASES = {"cluster": "kubernetes"}
"""Other names that `--backend` accepts."""


class Backend(Protocol):
    """One run at one place; stages are given by name."""

    @property
    def run_id(self) -> str:
        """Id of the run."""

    @property
    def artifacts(self) -> str:
        """URL that everything is written below."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Stage -> fingerprint, in the order in which they run."""

    @property
    def image(self) -> str | None:
        """Container image of the stages; None: the code of this machine."""

    @property
    def poll_seconds(self) -> float:
        """Seconds between two polls."""

    def machines(self, stage: str) -> Machines:
        """Return the machines of a stage."""

    def connect(self) -> None:
        """Reach the place, before anything is written there.

        Raises:
            UsageError: it cannot be reached with these options.
        """

    def save(self) -> None:
        """Write what another machine needs to continue the run."""

    def exists(self, stage: str) -> bool:
        """Return whether the backend has something of this stage, running or ended."""

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        """Start a stage, or adopt the attempt that is under way.

        Args:
            stage: its name.
            retry_failed: whether an attempt that has failed is replaced; False: it is polled.
        """

    def poll(self, stage: str) -> Verdict:
        """Judge a stage by what can be seen now; only reads.

        The place is looked at before the storage, so that a record published in between is seen.
        """

    def progress(self, stage: str) -> Progress | None:
        """Return the heartbeat that the last poll has read."""

    def archive(self, stage: str) -> None:
        """Store logs of failed attempts that the place may delete; called after every poll."""

    def give_up(self, stage: str, verdict: Verdict) -> None:
        """Store a final verdict with its evidence, then free what the stage holds."""

    def cancel(self, stage: str) -> None:
        """Stop a stage and free what it holds; what has ended stays as evidence."""

    def cancel_run(self) -> list[str]:
        """Delete what the run has at the place; records and checkpoints remain.

        Returns:
            A name for each deleted object.
        """

    def logs(self, stage: str) -> bytes:
        """Return the output of the stage's processes, as far as the place still has it."""

    def close(self) -> None:
        """Release what this process holds; called when the sequence ends for any reason."""


B_co = TypeVar("B_co", bound=Backend, covariant=True)


class BackendType(Protocol[B_co]):
    """The class of a backend, as BACKENDS names it."""

    def code_identity(self, spec: RunSpec, target: Target) -> str | None:
        """Return the name of the code that the stages run; None: the code of this machine.

        Raises:
            SpecError: spec and target do not name it.
        """

    def place(self, run: Plan, target: Target) -> B_co:
        """Prepare a run; nothing is started or written.

        Raises:
            SpecError: it cannot run there.
        """


def load_backend(name: str) -> BackendType[Backend]:
    """Import the class of a backend.

    Raises:
        UsageError: there is no backend of that name.
    """
    path = BACKENDS.get(ALIASES.get(name, name))
    if path is None:
        known = ", ".join([*BACKENDS, *ALIASES])
        raise UsageError(f"--backend {name}: unknown, expected one of {known}")
    module, _, attribute = path.partition(":")
    return cast(BackendType[Backend], getattr(importlib.import_module(module), attribute))
