"""The rows of `tuneloop plan`: which stages would run, which are cached, on which machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.runs.backend import Backend
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.plan import State, stage_state


@dataclass(frozen=True)
class PlanRow:
    """One stage of a plan."""

    name: str
    fingerprint: str
    state: State
    where: str
    """Namespace of the cluster, or `local`."""
    accelerator: str
    hosts: int
    """Pods that run at the same time."""
    chips: int
    """Chips of all pods together; 0 on CPU."""
    memory: str | None = None
    """Memory request of one pod; null on this machine."""
    deadline_seconds: int | None = None
    """Seconds that the stage may take in total; null on this machine."""

    def as_json(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        return asdict(self)


def plan_rows(plan: AnyPlan, backend: Backend) -> list[PlanRow]:
    """Look up every stage of a plan; writes nothing.

    Args:
        plan: the planned run.
        backend: the backend that would run it.
    """
    return [
        PlanRow(
            name=stage.stage,
            fingerprint=stage.fingerprint,
            state=stage_state(stage),
            **asdict(backend.machines(stage.stage)),
        )
        for stage in plan.stages
    ]
