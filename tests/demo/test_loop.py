"""The demo, run as in `make loop`: it learns, and it runs once.

tests/test_wheel.py runs it again with another folder, another store and another clock: same bytes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.demo.first import Summary, demo, first_demo, run_folder


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Run the demo once for all workers; return its folder and its summary."""
    return first_demo(tmp_path_factory)


def test_the_loop_learns(first: tuple[Path, Summary]) -> None:
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


def test_a_second_demo_runs_nothing(first: tuple[Path, Summary]) -> None:
    workdir, summary = first
    since = time.monotonic()
    again = demo(workdir)
    seconds = time.monotonic() - since
    assert [s["state"] for s in again["stages"]] == ["cached"] * 4
    assert {**again, "stages": None} == {**summary, "stages": None}
    assert seconds < 10  # The demo takes 3 s on an idle machine; the tests keep both cores busy.


def test_the_eval_answers_are_traces_in_the_store(
    first: tuple[Path, Summary],
) -> None:
    import sqlite3

    workdir, _ = first
    with sqlite3.connect(workdir / "store.db") as connection:
        count = connection.execute("SELECT count(*) FROM traces").fetchone()[0]
    assert count == 4000 + 2 * 160
