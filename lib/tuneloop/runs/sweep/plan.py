"""Plan all members of a sweep: their runs, the stages that they share, and the chips they need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from tuneloop.artifacts.sweeps.store import MARK, Member, SweepManifest
from tuneloop.errors import SpecError
from tuneloop.runs.backend import B_co
from tuneloop.runs.planning.plan import State, stage_state
from tuneloop.runs.planning.prepare import Prepared
from tuneloop.runs.sweep.expand import Variant
from tuneloop.runs.sweep.spec_file import SweepFile
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sweep import SweepSpec


@dataclass(frozen=True)
class PlannedMember(Generic[B_co]):
    """One member, planned and placed on a backend."""

    variant: Variant
    prepared: Prepared[B_co]

    @property
    def run_id(self) -> str:
        """Id of the member's run."""
        return self.prepared.plan.run_id


@dataclass(frozen=True)
class SharedStage:
    """A stage that runs once, for one or several members."""

    stage: str
    fingerprint: str
    state: State
    members: tuple[int, ...]
    """Numbers of the members that use the result."""
    chips: int
    """Chips of its machines; 0 on CPUs."""
    deadline_hours: float | None
    """Hours that it may take at most; None without a cluster."""

    @property
    def chip_hours(self) -> float:
        """Chip-hours that it can still hold at most."""
        return self.chips * (self.deadline_hours or 0.0) if self.state == "to run" else 0.0


@dataclass(frozen=True)
class SweepPlan(Generic[B_co]):
    """A planned sweep."""

    sweep_id: str
    artifacts: str
    settings: SweepSpec
    members: tuple[PlannedMember[B_co], ...]

    def manifest(self) -> SweepManifest:
        """Build sweep.json."""
        return SweepManifest(
            sweep_id=self.sweep_id,
            settings=self.settings.model_dump(mode="json", by_alias=True),
            members=[
                Member(
                    number=each.variant.number,
                    label=each.variant.label,
                    values=dict(each.variant.values),
                    run_id=each.run_id,
                    chips={
                        stage.stage: each.prepared.backend.machines(stage.stage).chips
                        for stage in each.prepared.plan.stages
                    },
                )
                for each in self.members
            ],
        )

    @property
    def fingerprint(self) -> str:
        """Digest of all members' results: the last stage of each covers those before it."""
        last = [each.prepared.plan.stages[-1].fingerprint for each in self.members]
        return hashlib.sha256("\n".join(last).encode()).hexdigest()

    @property
    def webhooks(self) -> list[WebhookSpec]:
        """The different webhooks of all members."""
        specs = (each.prepared.plan.spec.execution.notifications for each in self.members)
        return list(dict.fromkeys(webhook for found in specs for webhook in found))

    def stages(self) -> list[SharedStage]:
        """Return every different stage once, in the order of the members. Only reads."""
        users: dict[str, list[int]] = {}
        first: dict[str, tuple[PlannedMember[B_co], int]] = {}
        for member in self.members:
            for position, stage in enumerate(member.prepared.plan.stages):
                users.setdefault(stage.fingerprint, []).append(member.variant.number)
                first.setdefault(stage.fingerprint, (member, position))
        return [self._stage(*first[key], tuple(users[key])) for key in users]

    def _stage(
        self, member: PlannedMember[B_co], position: int, members: tuple[int, ...]
    ) -> SharedStage:
        stage = member.prepared.plan.stages[position]
        machines = member.prepared.backend.machines(stage.stage)
        seconds = machines.deadline_seconds
        deadline = None if seconds is None else seconds / 3600
        return SharedStage(
            stage.stage, stage.fingerprint, stage_state(stage), members, machines.chips, deadline
        )


def plan_sweep(
    sweep: SweepFile, url: str, prepare_member: Callable[[RunSpec], Prepared[B_co]]
) -> SweepPlan[B_co]:
    """Plan all members.

    Args:
        sweep: the sweep.
        url: URL of its file, for errors.
        prepare_member: plans and places one member.

    Raises:
        SpecError: two members are the same run, or they have different artifacts.
    """
    members = tuple(PlannedMember(variant, prepare_member(spec)) for variant, spec in sweep.members)
    seen: dict[str, Variant] = {}
    for member in members:
        other = seen.setdefault(member.run_id, member.variant)
        if other is not member.variant:
            raise SpecError(
                f"{url}: members {other.number} and {member.variant.number} of the sweep are the"
                f" same run {member.run_id} ({other.label}; {member.variant.label}), expected"
                " values that change the result; remove one"
            )
    artifacts = {member.prepared.plan.artifacts for member in members}
    if len(artifacts) > 1:
        raise SpecError(
            f"{url}: the members of the sweep have {len(artifacts)} values of execution.artifacts,"
            " expected one, because they share stages and a report; remove it from the sweep"
        )
    digest = hashlib.sha256("\n".join(seen).encode()).hexdigest()[:8]
    sweep_id = f"{sweep.name}{MARK}{digest}"
    return SweepPlan(sweep_id, artifacts.pop(), sweep.settings, members)
