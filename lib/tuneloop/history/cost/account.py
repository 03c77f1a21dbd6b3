"""What a run has taken: chip-hours, waiting time and money, for every view of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.usage.held import StageHeld, read_held
from tuneloop.errors import TuneloopError
from tuneloop.history.cost.prices import PriceList
from tuneloop.history.stored import StoredRun, is_own
from tuneloop.history.units import duration
from tuneloop.stages.table import STAGES
from tuneloop.storage.objects import in_parallel

_HOUR = 3600
UNKNOWN = "-"
HELD = "chip-hours held"
"""Name of the first figure of `totals`."""


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
    """What one stage has taken so far, with all of its attempts."""

    used_chip_hours: float | None
    """Chip-hours of work that the result contains: training steps, or whole other stages; null
    while the stage has no result."""
    lost_chip_hours: float | None
    """Chip-hours of steps that restarts have repeated; for other stages, of failed pods; null while
    the stage has no result."""
    queue_seconds: float
    """Seconds from the creation of a workload until its first pod had a node."""


def taken(
    artifacts: str,
    run_id: str,
    found: Mapping[str, Record | None],
    prices: PriceList | None,
) -> list[StageTaken]:
    """Return what the stages of a run have taken on a cluster; a reused stage has taken nothing.

    Args:
        artifacts: URL of the artifacts.
        run_id: id of the run.
        found: name of each stage -> its record; None if it has none.
        prices: the prices; None shows none.
    """

    def read(stage: str) -> StageHeld | None:
        with contextlib.suppress(TuneloopError):  # a broken file hides no result
            return read_held(layout.stage_prefix(artifacts, run_id, stage))
        return None

    own = [stage for stage, record in found.items() if record is None or is_own(record)]
    return [
        _taken(stage, found[stage], held, prices)
        for stage, held in zip(own, in_parallel(read, own), strict=True)
        if held is not None
    ]


def taken_by_run(artifacts: str, run_id: str, prices: PriceList | None) -> list[StageTaken]:
    """Return what the stages of a run have taken, from its records.

    Raises:
        DataError: a record is broken.
    """
    found = {stage: records.find(artifacts, run_id, stage) for stage in STAGES}
    return taken(artifacts, run_id, found, prices)


def taken_by(run: StoredRun, artifacts: str, prices: PriceList | None) -> list[StageTaken]:
    """Return what the stages of a run that has been read have taken.

    Args:
        run: the run.
        artifacts: URL of the artifacts.
        prices: the prices; None shows none.
    """
    found = {stage.name: stage.record for stage in run.stages if stage.state != "unreadable"}
    return taken(artifacts, run.run_id, found, prices)


def is_local(run: StoredRun) -> bool:
    """Return whether a run was planned for one machine, so that nobody measures what it takes."""
    if run.manifest is None or run.manifest.image is not None:
        return False
    execution = run.manifest.spec.get("execution")
    return isinstance(execution, dict) and not execution.get("cluster")


def _taken(
    stage: str, record: Record | None, held: StageHeld, prices: PriceList | None
) -> StageTaken:
    chips = held.chips_per_pod
    pod_hours = held.held_pod_seconds / _HOUR
    used: float | None = None
    lost: float | None = None
    if record is not None:
        used = record.work.useful_seconds if record.work else record.seconds
        trains = stage == "train" and record.work is not None
        lost = record.work.repeated_seconds if trains and record.work else held.failed_pod_seconds
    return StageTaken(
        stage=stage,
        accelerator=held.accelerator,
        spot=held.spot,
        pod_hours=pod_hours,
        chip_hours=pod_hours * chips,
        cost=price_of(prices, held.accelerator, held.spot, pod_hours, pod_hours * chips),
        used_chip_hours=None if used is None else used * chips / _HOUR,
        lost_chip_hours=None if lost is None else lost * chips / _HOUR,
        queue_seconds=held.queue_seconds,
    )


def price_of(
    prices: PriceList | None, accelerator: str, spot: bool, pod_hours: float, chip_hours: float
) -> float | None:
    """Return the price of some hours; None if it is not known."""
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


def price_note(stages: Sequence[StageCost], prices: PriceList | None) -> str:
    """Return the end of a line with the cost of stages; empty without prices."""
    if prices is None:
        return ""
    missing = sorted({each.accelerator for each in stages if each.cost is None})
    if missing:
        return f"; the price list has no price for {', '.join(missing)}"
    return f", {_money(total_cost(stages))} {prices.currency}"


def totals(stages: Sequence[StageTaken], prices: PriceList | None) -> dict[str, str]:
    """Return the figures of a whole run as text, by name; empty for runs on this machine."""
    if not stages:
        return {}
    figures = {
        HELD: _hours(sum(each.chip_hours for each in stages)),
        "chip-hours used": _hours(_sum([each.used_chip_hours for each in stages])),
        "chip-hours lost to restarts": _hours(_sum([each.lost_chip_hours for each in stages])),
        "pod-hours on CPU": _hours(sum(each.pod_hours for each in stages if not each.chip_hours)),
        "waited for machines": duration(sum(each.queue_seconds for each in stages)),
    }
    if prices is not None:
        figures[f"cost ({prices.currency})"] = _money(total_cost(stages))
    return figures


def taken_lines(stages: Sequence[StageTaken], prices: PriceList | None) -> list[str]:
    """Describe what a run has taken, in two lines; empty for runs on this machine."""
    found = totals(stages, prices)
    if not found:
        return []
    held, used, lost, pods, queued = list(found.values())[:5]
    return [
        f"held     {held} chip-hours ({used} used, {lost} lost to restarts) and {pods} pod-hours on"
        " CPU",
        f"waited   {queued} for machines{price_note(stages, prices)}",
    ]


def table(stages: Sequence[StageTaken], prices: PriceList | None) -> list[list[str]]:
    """Return a table of the stages as text, its head first; empty for runs on this machine."""
    if not stages:
        return []
    head = ["stage", "machines", "chip-hours", "used", "lost", "queued"]
    rows = [head + ([f"cost ({prices.currency})"] if prices else [])]
    for each in stages:
        hours = (each.chip_hours, each.used_chip_hours, each.lost_chip_hours)
        machines = f"{each.accelerator}{' (Spot)' if each.spot else ''}"
        row = [each.stage, machines, *map(_hours, hours), duration(each.queue_seconds)]
        rows.append(row + ([_money(each.cost)] if prices else []))
    return rows


def markdown(stages: Sequence[StageTaken], prices: PriceList | None) -> str:
    """Return a section for the report, which has none of its own, as its bytes hold no times.

    It is empty for runs on this machine.
    """
    rows = table(stages, prices)
    if not rows:
        return ""
    rows.insert(1, ["---"] * len(rows[0]))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"\n## Machines\n\n{lines}\n"


def _sum(values: Sequence[float | None]) -> float | None:
    """Add up what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _hours(value: float | None) -> str:
    """Format hours to three digits, such as `0.0123`, `16` or `12,300`."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _money(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}"
