"""What a run may take at most, and what it has taken: chip-hours, waiting time and money."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.usage.held import StageHeld, read_held
from tuneloop.errors import TuneloopError
from tuneloop.history.stored import is_own
from tuneloop.history.units import duration
from tuneloop.runs.cost.prices import PriceList
from tuneloop.runs.plan_table import PlanRow
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.stages.table import STAGES

_HOUR = 3600


@dataclass(frozen=True)
class StageCost:
    """What one stage may take, or has taken, on a cluster."""

    stage: str
    accelerator: str
    spot: bool
    pod_hours: float
    """Hours of all pods together."""
    chip_hours: float
    """Hours of all chips together; 0 on CPU."""
    cost: float | None
    """Price of the chips, or of the pods of a stage on CPU; null without a price."""


@dataclass(frozen=True)
class StageTaken(StageCost):
    """What one stage has taken, with all of its attempts."""

    used_chip_hours: float
    """Chip-hours of work that the result contains: training steps, or whole other stages."""
    lost_chip_hours: float
    """Chip-hours of steps that restarts have repeated; for other stages, of failed pods."""
    queue_seconds: float
    """Seconds from the creation of a workload until its first pod had a node."""


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
        if row.state != "to run" or row.where == "local":
            continue
        assert cluster is not None
        place = cluster.placement(row.name)
        hours = place.deadline_seconds / _HOUR
        pods, chips = row.hosts * hours, row.chips * hours
        cost = _cost(prices, row.accelerator, place.spot, pods, chips)
        found.append(StageCost(row.name, row.accelerator, place.spot, pods, chips, cost))
    return found


def taken(
    artifacts: str, run_id: str, found: Sequence[Record], prices: PriceList | None
) -> list[StageTaken]:
    """Return what the stages of a run have taken on a cluster; a reused stage has taken nothing.

    Args:
        artifacts: URL of the artifacts.
        run_id: id of the run.
        found: records of the run.
        prices: the prices; None shows none.
    """
    stages = []
    for record in found:
        held = None
        if is_own(record):
            with contextlib.suppress(TuneloopError):  # a broken file hides no result
                held = read_held(layout.stage_prefix(artifacts, run_id, record.stage))
        if held is not None:
            stages.append(_taken(record, held, prices))
    return stages


def taken_by_run(artifacts: str, run_id: str, prices: PriceList | None) -> list[StageTaken]:
    """Return what the finished stages of a run have taken, from its records."""
    found = [records.find(artifacts, run_id, stage) for stage in STAGES]
    return taken(artifacts, run_id, [each for each in found if each], prices)


def _taken(record: Record, held: StageHeld, prices: PriceList | None) -> StageTaken:
    chips = held.chips_per_pod
    pod_hours = held.held_pod_seconds / _HOUR
    used = record.work.useful_seconds if record.work else record.seconds
    trains = record.stage == "train" and record.work is not None
    lost = record.work.repeated_seconds if trains and record.work else held.failed_pod_seconds
    return StageTaken(
        stage=record.stage,
        accelerator=held.accelerator,
        spot=held.spot,
        pod_hours=pod_hours,
        chip_hours=pod_hours * chips,
        cost=_cost(prices, held.accelerator, held.spot, pod_hours, pod_hours * chips),
        used_chip_hours=used * chips / _HOUR,
        lost_chip_hours=lost * chips / _HOUR,
        queue_seconds=held.queue_seconds,
    )


def _cost(
    prices: PriceList | None, accelerator: str, spot: bool, pod_hours: float, chip_hours: float
) -> float | None:
    price = None if prices is None else prices.of(accelerator, spot=spot)
    return None if price is None else price * (chip_hours if chip_hours else pod_hours)


def as_json(stages: Sequence[StageCost], prices: PriceList | None) -> dict[str, Any]:
    """Return costs for `--json`; the total is null unless every stage has a price."""
    return {
        "currency": prices.currency if prices else None,
        "cost": total_cost(stages),
        "stages": [asdict(each) for each in stages],
    }


def total_cost(stages: Sequence[StageCost]) -> float | None:
    """Return the cost of all stages; None if one has no price, or if there are none."""
    costs = [each.cost for each in stages]
    return None if None in costs or not costs else sum(cost for cost in costs if cost is not None)


def bound_lines(stages: Sequence[StageCost], prices: PriceList | None) -> list[str]:
    """Describe the most that a run can take, in one line; empty for runs on this machine."""
    if not stages:
        return []
    chips = sum(each.chip_hours for each in stages)
    pods = sum(each.pod_hours for each in stages if not each.chip_hours)
    return [
        f"at most {chips:,.1f} chip-hours and {pods:,.1f} pod-hours on CPU until the deadlines"
        f"{_price(stages, prices)}"
    ]


def taken_lines(stages: Sequence[StageTaken], prices: PriceList | None) -> list[str]:
    """Describe what a run has taken, in two lines; empty for runs on this machine."""
    if not stages:
        return []
    chips, used, lost = (
        sum(getattr(each, name) for each in stages)
        for name in ("chip_hours", "used_chip_hours", "lost_chip_hours")
    )
    pods = sum(each.pod_hours for each in stages if not each.chip_hours)
    queued = duration(sum(each.queue_seconds for each in stages))
    return [
        f"held     {chips:.3g} chip-hours ({used:.3g} used, {lost:.3g} lost to restarts) and"
        f" {pods:.3g} pod-hours on CPU",
        f"waited   {queued} for machines{_price(stages, prices)}",
    ]


def markdown(stages: Sequence[StageTaken], prices: PriceList | None) -> str:
    """Return a section for the report, which has none of its own, as its bytes hold no times.

    It is empty for runs on this machine.
    """
    if not stages:
        return ""
    head = ["stage", "machines", "chip-hours", "used", "lost to restarts", "queued"]
    head += [f"cost ({prices.currency})"] if prices else []
    rows = [head, ["---"] * len(head)]
    for each in stages:
        hours = (each.chip_hours, each.used_chip_hours, each.lost_chip_hours)
        spot = " (Spot)" if each.spot else ""
        row = [each.stage, f"{each.accelerator}{spot}", *(f"{value:.3g}" for value in hours)]
        row.append(duration(each.queue_seconds))
        if prices:
            row.append("unknown" if each.cost is None else f"{each.cost:,.2f}")
        rows.append(row)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"\n## Machines\n\n{table}\n"


def _price(stages: Sequence[StageCost], prices: PriceList | None) -> str:
    if prices is None:
        return ""
    total = total_cost(stages)
    if total is not None:
        return f", {total:,.2f} {prices.currency}"
    missing = sorted({each.accelerator for each in stages if each.cost is None})
    return f"; the price list has no price for {', '.join(missing)}"
