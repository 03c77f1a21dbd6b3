"""What a run takes at most: chip-hours and money until the deadlines of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tuneloop.history.cost.account import StageCost, price_note, price_of
from tuneloop.history.cost.prices import PriceList
from tuneloop.runs.planning.plan_table import PlanRow
from tuneloop.specs.cluster import ClusterSpec

_HOUR = 3600


def bounds(
    rows: Iterable[PlanRow], cluster: ClusterSpec | None, prices: PriceList | None
) -> list[StageCost]:
    """Return what each stage that has to run takes if all its pods run until its deadline.

    Args:
        rows: the rows of a plan.
        cluster: Kubernetes settings of the spec; None for runs on this machine.
        prices: the prices; None shows none.
    """
    found = []
    for row in rows if cluster is not None else ():
        if row.state != "to run" or row.deadline_seconds is None:
            continue
        assert cluster is not None
        place = cluster.placement(row.name)
        hours = row.deadline_seconds / _HOUR
        pods, chips = row.hosts * hours, row.chips * hours
        cost = price_of(prices, row.accelerator, place.spot, pods, chips)
        found.append(StageCost(row.name, row.accelerator, place.spot, pods, chips, cost))
    return found


def bound_lines(stages: Sequence[StageCost], prices: PriceList | None) -> list[str]:
    """Describe the most that a run can take, in one line; empty for runs on this machine."""
    if not stages:
        return []
    chips = sum(each.chip_hours for each in stages)
    pods = sum(each.pod_hours for each in stages if not each.chip_hours)
    return [
        f"at most {chips:,.1f} chip-hours and {pods:,.1f} pod-hours on CPU until the deadlines"
        f"{price_note(stages, prices)}"
    ]
