"""List sweeps and rounds, with the states of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tuneloop.history.grouping.membership import Group, read_groups
from tuneloop.history.listing import ListedRun, has_state, list_runs


@dataclass(frozen=True)
class ListedGroup:
    """One sweep, or the rounds of one spec."""

    kind: str
    """`sweep` or `rounds`."""
    id: str
    runs: int
    """Number of runs that are known so far; rounds get more of them as they go on."""
    finished: int
    running: int
    failed: int
    started_at: datetime | None
    """Start of the first of its runs; None if none has started."""

    def as_json(self) -> dict[str, Any]:
        """Return the group for `--json`."""
        started = self.started_at.isoformat() if self.started_at else None
        return {**asdict(self), "started_at": started}


def list_groups(artifacts: str, *, now: datetime) -> list[ListedGroup]:
    """List all sweeps and rounds below an artifacts prefix, the newest first.

    Args:
        artifacts: URL of the artifacts prefix.
        now: the current time, which tells a running stage from a stopped one.
    """
    groups = read_groups(artifacts)
    runs = {run.run_id: run for run in list_runs(artifacts, now=now)} if groups else {}
    found = [
        _listed(group, [runs[each] for each in group.places if each in runs]) for group in groups
    ]
    found.sort(key=lambda each: each.id)
    found.sort(key=lambda each: each.started_at.timestamp() if each.started_at else 0, reverse=True)
    return found


def _listed(group: Group, runs: Sequence[ListedRun]) -> ListedGroup:
    return ListedGroup(
        group.kind,
        group.id,
        len(group.places),
        finished=_count(runs, "finished"),
        running=_count(runs, "running"),
        failed=_count(runs, "failed"),
        started_at=min((run.started_at for run in runs if run.started_at), default=None),
    )


def _count(runs: Iterable[ListedRun], state: str) -> int:
    return sum(has_state(run.state, state) for run in runs)
