"""Prices, and what a run has taken, in every view of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.builders import Invoke, TinyRun, letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tests.k8s.twin import publish_record
from tests.prices import LISTED, PRICES
from tests.store.web.looking import look, text_of
from tests.store_fixtures import CATALOG
from tuneloop.artifacts import layout
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.usage.held import PodUse, StageHeld, usage_url, write_held
from tuneloop.artifacts.usage.work import Work
from tuneloop.errors import SpecError, UsageError
from tuneloop.history.cost import account
from tuneloop.history.cost.prices import load_prices
from tuneloop.history.stored import read_run
from tuneloop.storage import files
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database

NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)


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
        ("currency: USD\nper_hour: {cpu: {on_demand: .nan}}", "yaml:2: found .nan"),
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
    train_record = with_work(found["train"], 2.5, 0.5)
    records = {**found, "train": train_record}
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
    (old,) = account.taken(plan.artifacts, plan.run_id, {"train": found["train"]}, None)
    assert (old.lost_chip_hours, old.cost) == (4, None)


def test_a_reused_stage_and_a_broken_file_have_taken_nothing(tiny_run: TinyRun) -> None:
    plan = tiny_run.plan()
    (export, train, *_) = (publish_record(stage) for stage in plan.stages)
    held("export", plan, chips=0, hours=1, failed_hours=2)
    files.write(usage_url(layout.stage_prefix(plan.artifacts, plan.run_id, "train")), b"{")
    (file,) = export.outputs
    adopted = file.model_copy(update={"path": file.path.replace(plan.run_id, "other-0")})
    reused = export.model_copy(update={"outputs": (adopted,)})
    stages: dict[str, Record | None] = {"export": reused, "train": train}
    assert account.taken(plan.artifacts, plan.run_id, stages, LISTED) == []
    assert account.taken_lines([], LISTED) == []
    assert account.markdown([], LISTED) == ""


@pytest.fixture
def on_cluster(tmp_path: Path) -> str:
    """Artifacts with two runs: one has taken machines and waits for its evaluation."""
    root = str(tmp_path / "artifacts")
    publish_dataset(root, [letter_trace(number) for number in range(3)])
    publish_run(root, "letters-v1", "far-1", stages=("export", "train"))
    publish_run(root, "letters-v1", "near-2")
    place = PlannedRun(root, "far-1")
    held("export", place, chips=0, hours=1, failed_hours=2)
    held("train", place, chips=4, hours=300, failed_hours=1)
    held("eval", place, chips=0, hours=0.5, failed_hours=0.5)
    prices = tmp_path / "prices.yaml"
    prices.write_text(yaml.safe_dump(PRICES))
    manifest = json.loads(files.read(layout.run_manifest_url(root, "far-1")))
    manifest["spec"]["execution"] = {"prices": str(prices), "cluster": {"namespace": "n"}}
    torn(root, "far-1", "run_manifest.json", manifest)
    return root


class PlannedRun(NamedTuple):
    """The place of a run."""

    artifacts: str
    run_id: str


def test_a_stage_without_a_result_holds_machines_too(on_cluster: str) -> None:
    run = read_run(on_cluster, "far-1", now=NOW)
    assert run is not None
    *_, evaluated = found = account.taken_by(run, on_cluster, LISTED)
    assert (evaluated.stage, evaluated.pod_hours, evaluated.used_chip_hours) == ("eval", 1, None)
    assert evaluated.lost_chip_hours is None
    assert account.totals(found, LISTED) == {
        "chip-hours held": "1,204",
        "chip-hours used": "0.223",
        "chip-hours lost to restarts": "4",
        "pod-hours on CPU": "4",
        "waited for machines": "1 h 30 min",
        "cost (USD)": "602.40",
    }
    assert account.table(found, LISTED)[3] == ["eval", "cpu", "0", "-", "-", "30 min 00 s", "0.10"]


def test_runs_show_has_the_machines_in_80_columns(
    on_cluster: str, tuneloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = tuneloop("runs", "show", "far-1", "--artifacts", on_cluster)
    assert (code, err) == (0, "")
    assert "held     1,204 chip-hours (0.223 used, 4 lost to restarts) and 4 pod-hours" in out
    assert "waited   1 h 30 min for machines, 602.40 USD" in out
    (row,) = (line for line in out.splitlines() if "v5e-2x2 (Spot)" in line)
    assert " ".join(row.split()) == "train v5e-2x2 (Spot) 1,204 0.223 4 30 min 00 s 602.00"
    assert len(row) <= 80
    code, out, _ = tuneloop("runs", "show", "far-1", "--artifacts", on_cluster, "--json")
    usage = json.loads(out)["usage"]
    assert (usage["currency"], usage["cost"]) == ("USD", pytest.approx(602.4))
    assert [each["stage"] for each in usage["stages"]] == ["export", "train", "eval"]
    _, out, _ = tuneloop("runs", "show", "near-2", "--artifacts", on_cluster)
    assert "held" not in out


def test_a_price_list_of_another_machine_hides_no_run(
    on_cluster: str, tuneloop: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").unlink()
    code, out, err = tuneloop("runs", "show", "far-1", "--artifacts", on_cluster)
    assert (code, "no costs: " in err, "waited   1 h 30 min for machines\n" in out) == (
        0,
        True,
        True,
    )
    there = ("--artifacts", on_cluster, "--prices", str(tmp_path / "none.yaml"))
    code, _, err = tuneloop("runs", "show", "far-1", *there)
    assert (code, "expected a price list" in err) == (2, True)


def test_compare_has_the_machines_side_by_side(on_cluster: str, tuneloop: Invoke) -> None:
    there = ("far-1", "near-2", "--artifacts", on_cluster)
    code, out, _ = tuneloop("runs", "compare", *there, "--json")
    found = json.loads(out)["machines"]
    assert (code, found["chip-hours held"]) == (0, ["1,204", "-"])
    assert found["cost (USD)"] == ["602.40", "-"]
    code, out, _ = tuneloop("runs", "compare", "near-2", "near-2", "--artifacts", on_cluster)
    assert (code, "machines" in out) == (0, False)


def test_report_reads_the_prices_that_the_spec_names(on_cluster: str, tuneloop: Invoke) -> None:
    publish_run(on_cluster, "letters-v1", "far-1", stages=())  # the manifest without prices
    manifest = json.loads(files.read(layout.run_manifest_url(on_cluster, "near-2")))
    held("train", PlannedRun(on_cluster, "near-2"), chips=4, hours=3, failed_hours=1)
    prices = Path(on_cluster).parent / "prices.yaml"
    manifest["spec"]["execution"] = {"prices": str(prices)}
    torn(on_cluster, "near-2", "run_manifest.json", manifest)
    code, out, err = tuneloop("report", "near-2", "--artifacts", on_cluster)
    assert (code, err) == (0, "")
    assert "| train | v5e-2x2 (Spot) | 16 |" in out
    assert "| 8.00 |" in out
    code, out, _ = tuneloop("report", "near-2", "--artifacts", on_cluster, "--format", "json")
    assert json.loads(out)["usage"]["cost"] == 8.0


def test_pages_of_runs_show_the_machines(on_cluster: str, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    catalog = replace(CATALOG, prices=LISTED)
    with TestClient(create_app(database, on_cluster, catalog)) as http:
        page = look(http, "/runs/far-1")
        said = text_of(page)
        assert "Machines Chip-hours held 1,204 Chip-hours used 0.223" in said
        assert "Cost (USD) 602.40" in said
        assert "train v5e-2x2 (Spot) 1,204 0.223 4 30 min 00 s 602.00" in said
        assert 'data-label="lost"' in page
        assert "Machines" not in text_of(look(http, "/runs/near-2"))
        assert "Chip-hours Last stage started" in text_of(look(http, "/runs"))
        said = text_of(look(http, "/runs/compare?a=far-1&b=near-2"))
        assert "Machines Figure far-1 near-2 chip-hours held 1,204 -" in said
        files.write(usage_url(layout.stage_prefix(on_cluster, "far-1", "train")), b"{")
        assert "Chip-hours held 0 " in text_of(look(http, "/runs/far-1"))
