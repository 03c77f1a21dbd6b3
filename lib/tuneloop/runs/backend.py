"""Backends, which execute the stages of a run: their protocol and their table.

To add a backend, write a class with these methods and add a row to BACKENDS.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, TypeVar, cast

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.errors import UsageError
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.target import Machines, Target

BACKENDS = {
    "local": "tuneloop.runs.local:LocalBackend",
    "kubernetes": "tuneloop.k8s.backend:KubernetesBackend",
}
"""Name -> module and class; the class is a `BackendType` and is imported when it is chosen."""
ALIASES = {"cluster": "kubernetes"}
"""Other names that `--backend` accepts."""


class Backend(Protocol):
    """One run on one backend; stages are identified by name."""

    @property
    def run_id(self) -> str:
        """Id of the run."""

    @property
    def artifacts(self) -> str:
        """URL of the prefix for all output."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Stage -> fingerprint, in execution order."""

    @property
    def image(self) -> str | None:
        """Container image of the stages; None if they run the code of this machine."""

    @property
    def poll_seconds(self) -> float:
        """Seconds between two polls."""

    def machines(self, stage: str) -> Machines:
        """Return the machines of a stage."""

    def connect(self) -> None:
        """Connect to the backend, before anything is written there.

        Raises:
            UsageError: it cannot be reached with these options.
        """

    def save(self) -> None:
        """Write what another machine needs to continue the run."""

    def exists(self, stage: str) -> bool:
        """Return whether the backend holds an attempt of this stage, running or ended."""

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        """Start a stage, or adopt the attempt that is running.

        Args:
            stage: name of the stage.
            retry_failed: whether to replace a failed attempt; if False, the attempt is polled.
        """

    def confirm(self, stage: str) -> None:
        """Let other machines start a stage from what `save` has written; does not start it."""

    def poll(self, stage: str) -> Verdict:
        """Return the current verdict on a stage; only reads.

        Reads the backend before the storage, so that a record published in between is found.
        """

    def progress(self, stage: str) -> Progress | None:
        """Return the heartbeat that the last poll read."""

    def attempt(self, stage: str) -> str:
        """Return an id of the attempt that the last poll saw, the same for every supervisor."""

    def archive(self, stage: str) -> None:
        """Store new log lines, which the backend may delete; called after every poll."""

    def succeeded(self, stage: str) -> None:
        """Take note that a stage has its record; its processes may still run for a moment."""

    def settle(self, stage: str) -> None:
        """Take note of the end of a stage with a record, if nobody has watched it to its end."""

    def give_up(self, stage: str, verdict: Verdict) -> None:
        """Store a final verdict with its evidence, then release the stage's machines."""

    def cancel(self, stage: str) -> None:
        """Stop a stage and release its machines; ended attempts stay as evidence."""

    def cancel_run(self, stage: str | None = None, *, wait_seconds: float = 0.0) -> Cancellation:
        """Delete the run's objects on the backend and wait until they are gone.

        Records and checkpoints remain.

        Args:
            stage: the only stage to cancel; None cancels the whole run.
            wait_seconds: maximum seconds to wait.
        """

    def close(self) -> None:
        """Release the resources of this process; called when the sequence ends for any reason."""


B_co = TypeVar("B_co", bound=Backend, covariant=True)


class BackendType(Protocol[B_co]):
    """The class of a backend, named in BACKENDS."""

    def code_identity(self, spec: AnyRunSpec, target: Target) -> str | None:
        """Return the identity of the stages' code; None if they run the code of this machine.

        Raises:
            SpecError: neither spec nor target identifies the code.
        """

    def place(self, run: AnyPlan, target: Target) -> B_co:
        """Prepare a run; nothing is started or written.

        Raises:
            SpecError: the backend cannot run it.
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
