"""The demo, run as in `make loop` and twice in new folders: it learns, and it is deterministic."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tuneloop.training.sft.metrics import MEASURED


def demo(workdir: Path, repository: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tuneloop.cli", "demo", "--workdir", str(workdir), "--json"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture(scope="session")
def first(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> tuple[Path, dict[str, Any]]:
    """Run the demo once for all workers; return its folder and its summary."""
    workdir = tmp_path_factory.getbasetemp().parent / "demo"
    summary = Path(f"{workdir}.json")
    with FileLock(f"{workdir}.lock"):
        if not summary.exists():
            shutil.rmtree(workdir, ignore_errors=True)
            summary.write_text(json.dumps(demo(workdir, repository)))
    return workdir, json.loads(summary.read_text())


def run_folder(summary: dict[str, Any]) -> Path:
    return Path(summary["report"]).parent


def test_the_loop_learns(first: tuple[Path, dict[str, Any]]) -> None:
    _, summary = first
    assert [(s["name"], s["state"]) for s in summary["stages"]] == [
        (name, "done") for name in ("export", "train", "eval", "import")
    ]
    assert summary["accuracy"]["base"] <= 0.05
    assert summary["accuracy"]["tuned"] >= 0.60
    report = json.loads((run_folder(summary) / "delta_report.json").read_bytes())
    assert max(row["tuned"]["correct"] / 40 for row in report["categories"]) >= 0.90
    assert report["verdict"] == "improved"
    metrics = (run_folder(summary) / "metrics.jsonl").read_bytes().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics]
    assert len(losses) == 50
    assert losses[-1] <= losses[0] / 10


def test_a_second_demo_runs_nothing(first: tuple[Path, dict[str, Any]], repository: Path) -> None:
    workdir, summary = first
    since = time.monotonic()
    again = demo(workdir, repository)
    seconds = time.monotonic() - since
    assert [s["state"] for s in again["stages"]] == ["cached"] * 4
    assert {**again, "stages": None} == {**summary, "stages": None}
    assert seconds < 10  # The demo takes 3 s on an idle machine; the tests keep both cores busy.


def test_the_eval_answers_are_traces_in_the_store(
    first: tuple[Path, dict[str, Any]],
) -> None:
    import sqlite3

    workdir, _ = first
    with sqlite3.connect(workdir / "store.db") as connection:
        count = connection.execute("SELECT count(*) FROM traces").fetchone()[0]
    assert count == 4000 + 2 * 160


def test_two_fresh_folders_hold_the_same_bytes(
    first: tuple[Path, dict[str, Any]], repository: Path, tmp_path: Path
) -> None:
    """Run the demo again with another folder, another store and another clock."""
    _, summary = first
    second = demo(tmp_path / "other", repository)
    assert second["run_id"] == summary["run_id"]
    assert second["loss"] == summary["loss"]
    a, b = run_folder(summary), run_folder(second)
    for stage in ("export", "train", "eval", "import"):
        one, two = (json.loads((run / stage / "record.json").read_bytes()) for run in (a, b))
        digests = [
            {f["name"]: f["sha256"] for f in record["outputs"] if not f["has_timings"]}
            for record in (one, two)
        ]
        assert digests[0] == digests[1], stage
        assert one["results"] == two["results"]
    for name in ("eval_before.jsonl", "eval_after.jsonl", "delta_report.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    rows = [
        [{**json.loads(line), **dict.fromkeys(MEASURED)} for line in metrics.splitlines()]
        for metrics in ((run / "metrics.jsonl").read_bytes() for run in (a, b))
    ]
    assert rows[0] == rows[1]
    shutil.rmtree(tmp_path / "other")
