"""Plan a run and place it on a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from tuneloop.runs.backend import B_co, BackendType
from tuneloop.runs.planning.any_plan import AnyPlan, load_any_plan
from tuneloop.runs.planning.plan import write_run_manifest
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.target import Target


@dataclass(frozen=True)
class Prepared(Generic[B_co]):
    """A plan and the backend that runs it."""

    plan: AnyPlan
    backend: B_co

    def start(self) -> B_co:
        """Connect, then write the run manifest; nothing is written if connecting fails."""
        self.backend.connect()
        write_run_manifest(self.plan, image=self.backend.image)
        self.backend.save()
        return self.backend


def prepare(
    backend: BackendType[B_co],
    spec: AnyRunSpec,
    target: Target | None = None,
    *,
    seed: int | None = None,
) -> Prepared[B_co]:
    """Plan a run and place it; nothing is started or written.

    Args:
        backend: class of the backend, such as from `load_backend`.
        spec: the run spec.
        target: command-line settings of the backend.
        seed: seed that overrides the spec's.

    Raises:
        SpecError: the backend cannot run the spec.
    """
    target = target or Target()
    identity = backend.code_identity(spec, target)
    plan = load_any_plan(spec, seed=seed, image_digest=identity)
    return Prepared(plan, backend.place(plan, target))
