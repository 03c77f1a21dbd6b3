"""Prices, the most that a plan can take, and what a run has taken."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tests.k8s.twin import IMAGE, publish_record
from tuneloop.artifacts import layout
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.usage.held import PodUse, StageHeld, usage_url, write_held
from tuneloop.artifacts.usage.work import Work
from tuneloop.errors import SpecError, UsageError
from tuneloop.runs.cost import account
from tuneloop.runs.cost.prices import PriceList, load_prices
from tuneloop.storage import files

NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)
PRICES: dict[str, Any] = {
    "currency": "USD",
    "per_hour": {
        "cpu": {"on_demand": 0.1},
        "v5e": {"on_demand": 1.2, "spot": 0.5},
        "v5e-4x4": {"on_demand": 1.0},
        "h100-80gb": {"on_demand": 4.0},
        "h100": {"on_demand": 99.0},
    },
}
LISTED = PriceList.model_validate(PRICES)


@pytest.mark.parametrize(
    ("accelerator", "spot", "expected"),
    [
        ("cpu", False, 0.1),
        ("cpu", True, None),  # an unknown price is no other price
        ("v5e-2x2", False, 1.2),
        ("v5e-2x2", True, 0.5),
        ("v5e-4x4", False, 1.0),
        ("v5e-4x4", True, None),
        ("h100-80gb-8x4", False, 4.0),
        ("v5ex-2x2", False, None),
        ("tpu7x-2x2", False, None),
    ],
)
def test_the_longest_name_that_fits_has_the_price(
    accelerator: str, spot: bool, expected: float | None
) -> None:
    assert LISTED.of(accelerator, spot=spot) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "prices.yaml"),
        ("currency: USD", "per_hour is missing"),
        ("currency: dollars\nper_hour: {}", "currency is 'dollars'"),
        ("currency: USD\nper_hour: {cpu: {on_demand: -1}}", "per_hour.cpu.on_demand is -1"),
        ("currency: USD\nper_hour: {cpu: {on_demand: .nan}}", "per_hour.cpu.on_demand is nan"),
        ("currency: USD\nper_hour: {cpu: {ondemand: 1}}", "per_hour.cpu.ondemand is an unknown"),
        ("currency: USD\nper_hour: {cpu: 1}", "per_hour.cpu"),
    ],
)
def test_a_wrong_price_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_prices(str(tmp_path / "prices.yaml"))


def test_a_missing_price_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a price list; check --prices"):
        load_prices(str(tmp_path / "none.yaml"))


@pytest.fixture
def priced(tiny_run: TinyRun, tmp_path: Path) -> TinyRun:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump(PRICES))
    train = {"accelerator": "v5e-2x2", "spot": True, "deadline_seconds": 7200}
    place = {"namespace": "n", "image": IMAGE, "train": train}
    place["eval"] = {"deadline_seconds": 1800, "shard_count": 4}
    return tiny_run.change(execution__cluster=place, execution__prices=str(path))


def test_a_plan_says_the_most_that_a_run_can_take(priced: TinyRun, tuneloop: Invoke) -> None:
    code, out, err = tuneloop("plan", priced.spec_path, "--json")
    assert code == 0, err
    bound = json.loads(out)["bound"]
    stages = {each["stage"]: each for each in bound["stages"]}
    assert stages["train"]["chip_hours"] == 8.0
    assert stages["train"]["cost"] == 4.0
    assert (stages["eval"]["pod_hours"], stages["eval"]["cost"]) == (2.0, 0.2)
    assert stages["export"]["pod_hours"] == 24.0
    assert bound["currency"] == "USD"
    assert bound["cost"] == pytest.approx(4.0 + 0.2 + 2 * 2.4)
    _, out, _ = tuneloop("plan", priced.spec_path)
    assert "at most 8.0 chip-hours and 50.0 pod-hours on CPU until the deadlines, 9.00 USD" in out


def test_a_plan_names_what_has_no_price(priced: TinyRun, tuneloop: Invoke, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("currency: EUR\nper_hour: {v5e: {spot: 1}}\n")
    code, out, _ = tuneloop("plan", priced.spec_path, "--prices", other)
    assert code == 0
    assert "; the price list has no price for cpu" in " ".join(out.split())
    code, _, err = tuneloop("plan", priced.spec_path, "--prices", tmp_path / "none.yaml")
    assert (code, "expected a price list" in err) == (2, True)


def test_a_plan_for_this_machine_has_no_bound(tiny_run: TinyRun, tuneloop: Invoke) -> None:
    code, out, _ = tuneloop("plan", tiny_run.spec_path, "--json")
    assert code == 0
    assert json.loads(out)["bound"] == {"currency": None, "cost": None, "stages": []}


def test_prices_change_no_fingerprint(priced: TinyRun) -> None:
    before = priced.plan()
    after = priced.change(execution__prices=None).plan()
    assert after.run_id == before.run_id


def held(stage: str, plan: Any, *, chips: int, hours: float, failed_hours: float) -> None:
    def pod(length: float, *, failed: bool) -> PodUse:
        end = NOW + timedelta(hours=length)
        start = NOW + timedelta(minutes=30)
        return PodUse(
            workload="w",
            scheduled_at=start,
            ended_at=end + (start - NOW),
            seen_at=end,
            failed=failed,
        )

    prefix = layout.stage_prefix(plan.artifacts, plan.run_id, stage)
    found = StageHeld(
        accelerator="v5e-2x2" if chips else "cpu",
        spot=bool(chips),
        chips_per_pod=chips,
        workloads={"w": NOW},
        pods={"a": pod(failed_hours, failed=True), "b": pod(hours, failed=False)},
    )
    write_held(found, prefix)


def with_work(record: Record, hours: float, repeated_hours: float) -> Record:
    work = Work(
        useful_seconds=hours * 3600, repeated_steps=7, repeated_seconds=repeated_hours * 3600
    )
    return record.model_copy(update={"work": work})


def test_what_a_run_has_taken(tiny_run: TinyRun) -> None:
    plan = tiny_run.plan()
    found = {stage.stage: publish_record(stage) for stage in plan.stages}
    held("export", plan, chips=0, hours=1, failed_hours=2)
    held("train", plan, chips=4, hours=3, failed_hours=1)
    records = [found["export"], with_work(found["train"], 2.5, 0.5), found["eval"]]
    export, train = account.taken(plan.artifacts, plan.run_id, records, LISTED)
    assert (export.pod_hours, export.chip_hours, export.lost_chip_hours) == (3, 0, 0)
    assert export.cost == pytest.approx(0.3)
    assert (train.chip_hours, train.used_chip_hours, train.lost_chip_hours) == (16, 10, 2)
    assert train.cost == pytest.approx(8.0)
    assert train.queue_seconds == 1800
    assert account.taken_lines([export, train], LISTED) == [
        "held     16 chip-hours (10 used, 2 lost to restarts) and 3 pod-hours on CPU",
        "waited   1 h 00 min for machines, 8.30 USD",
    ]
    table = account.markdown([export, train], LISTED).splitlines()
    assert table[-1] == "| train | v5e-2x2 (Spot) | 16 | 10 | 2 | 30 min 00 s | 8.00 |"
    # A record of an older version says nothing about repeated steps.
    (old,) = account.taken(plan.artifacts, plan.run_id, [found["train"]], None)
    assert (old.lost_chip_hours, old.cost) == (4, None)


def test_a_reused_stage_and_a_broken_file_have_taken_nothing(tiny_run: TinyRun) -> None:
    plan = tiny_run.plan()
    (export, train, *_) = (publish_record(stage) for stage in plan.stages)
    held("export", plan, chips=0, hours=1, failed_hours=2)
    files.write(usage_url(layout.stage_prefix(plan.artifacts, plan.run_id, "train")), b"{")
    (file,) = export.outputs
    adopted = file.model_copy(update={"path": file.path.replace(plan.run_id, "other-0")})
    reused = export.model_copy(update={"outputs": (adopted,)})
    assert account.taken(plan.artifacts, plan.run_id, [reused, train], LISTED) == []
    assert account.taken_lines([], LISTED) == []
    assert account.markdown([], LISTED) == ""
