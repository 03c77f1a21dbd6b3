"""The rows of `tuneloop plan`: what would run, what is cached, and on which machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.k8s.rendering.render import Renderer
from tuneloop.runs.plan import Plan, State, stage_state


@dataclass(frozen=True)
class PlanRow:
    """One stage of a plan."""

    name: str
    fingerprint: str
    state: State
    where: str
    """Namespace, or `local`."""
    accelerator: str
    hosts: int
    """Pods at once."""
    chips: int
    """Of all pods together; 0 on CPU."""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def plan_rows(plan: Plan, renderer: Renderer | None) -> list[PlanRow]:
    """Look up every stage of a plan; writes nothing.

    Args:
        plan: the run.
        renderer: what places it on a cluster; None: it runs on this machine.
    """
    rows = []
    for stage in plan.stages:
        where, accelerator, hosts, chips = "local", "cpu", 1, 0
        if renderer is not None:
            shape = renderer.shape(stage)
            shards = renderer.cluster.placement(stage.stage).shards
            where, accelerator = renderer.cluster.namespace, shape.key
            hosts, chips = shape.hosts * shape.slices * shards, shape.chips * shards
        state = stage_state(stage)
        rows.append(
            PlanRow(stage.stage, stage.fingerprint, state, where, accelerator, hosts, chips)
        )
    return rows
