"""Test the costs in the report of a sweep."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.history.trees import write_run
from tuneloop.artifacts import layout
from tuneloop.artifacts.sweeps.store import Member, SweepManifest
from tuneloop.artifacts.usage.held import PodUse, StageHeld, write_held
from tuneloop.history.cost.prices import PriceList
from tuneloop.runs.sweep.report import build_rows, taken_lines_of, write_report

START = datetime(2026, 11, 28, tzinfo=UTC)
PRICES = PriceList.model_validate(
    {"currency": "USD", "per_hour": {"v5e": {"on_demand": 2.0}, "cpu": {"on_demand": 0.5}}}
)


def hold(root: str, run_id: str, stage: str, accelerator: str, chips: int, hours: float) -> None:
    end = START + timedelta(hours=hours)
    pod = PodUse(workload="w", scheduled_at=START, ended_at=end, seen_at=end)
    held = StageHeld(accelerator=accelerator, spot=False, chips_per_pod=chips, pods={"p": pod})
    write_held(held, layout.stage_prefix(root, run_id, stage))


@pytest.fixture
def sweep(tmp_path: Path) -> SweepManifest:
    """The second member has reused the export of the first, and was stopped while it trained."""
    root = str(tmp_path)
    write_run(root, "a-1")
    write_run(root, "b-2", ["export"], like={"export": "a-1"})
    hold(root, "a-1", "export", "cpu", 0, 2)
    hold(root, "a-1", "train", "v5e-2x2", 4, 1.5)
    hold(root, "b-2", "train", "v5e-2x2", 4, 0.5)
    members = [
        Member(number=at, label="é|🟡", values={}, run_id=run_id, chips={})
        for at, run_id in enumerate(("a-1", "b-2", "never-3"), start=1)
    ]
    return SweepManifest(sweep_id="x-sweep-00000001", settings={}, members=members)


def test_the_report_has_the_cost_of_each_member_and_of_all(
    sweep: SweepManifest, tmp_path: Path
) -> None:
    root = str(tmp_path)
    rows, url = write_report(sweep, root, PRICES)
    value = json.loads(Path(url).with_suffix(".json").read_text())
    assert (value["currency"], value["cost"]) == ("USD", 17.0)
    assert [member["cost"] for member in value["members"]] == [13.0, 4.0, None]
    text = Path(url).read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].endswith("| cost (USD) |")
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {13}
    assert table[2].endswith("| 13.00 |")
    assert "17.00 USD" in text
    assert "8 chip-hours" in taken_lines_of(rows, PRICES)[0]


def test_without_prices_the_hours_alone_are_shown(sweep: SweepManifest, tmp_path: Path) -> None:
    rows, url = write_report(sweep, str(tmp_path))
    text = Path(url).read_text()
    assert "USD" not in text
    assert "8 chip-hours" in text
    assert [row.as_json()["cost"] for row in rows] == [None] * 3
    missing = PriceList.model_validate({"currency": "EUR", "per_hour": {}})
    rows = build_rows(sweep, str(tmp_path), missing)
    assert "no price for cpu, v5e-2x2" in taken_lines_of(rows, missing)[1]
