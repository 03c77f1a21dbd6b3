"""The most that a plan can take."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tests.k8s.twin import IMAGE
from tests.prices import PRICES

NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)


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
    assert stages["export"]["pod_hours"] == 6.0
    assert bound["currency"] == "USD"
    assert bound["cost"] == pytest.approx(4.0 + 0.2 + 2 * 0.6)
    _, out, _ = tuneloop("plan", priced.spec_path)
    assert "at most 8.0 chip-hours and 14.0 pod-hours on CPU until the deadlines, 5.40 USD" in out


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


def test_a_plan_with_large_machines_fits_80_columns(
    priced: TinyRun, tuneloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    train = {"accelerator": "h100-80gb-8x4", "deadline_seconds": 90_000}
    place = {"namespace": "a-namespace-with-a-long-name", "image": IMAGE, "train": train}
    priced.change(execution__cluster=place, train__batch_size=32)
    code, out, err = tuneloop("plan", priced.spec_path)
    assert code == 0, err
    table = out.splitlines()[2:7]
    assert max(map(len, table)) <= 80
    (row,) = (line for line in table if line.startswith("train "))
    assert " h100-80gb-8x4 " in row
    assert row.endswith(" 25 h")
