"""The demo, run once for all workers, and the comparison of two demos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import REPOSITORY
from tests.once import made_once
from tuneloop.training.sft.metrics import MEASURED

Summary = dict[str, Any]


def demo(workdir: Path) -> Summary:
    """Run the demo of the checkout in a folder; returns its summary."""
    done = subprocess.run(
        [sys.executable, "-m", "tuneloop.cli", "demo", "--workdir", str(workdir), "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    value: Summary = json.loads(done.stdout)
    return value


def first_demo(factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Run the demo once for all workers; returns its folder and its summary."""

    def make(folder: Path) -> None:
        (folder / "summary.json").write_text(json.dumps(demo(folder / "demo")))

    folder = made_once(factory, "first-demo", make)
    return folder / "demo", json.loads((folder / "summary.json").read_text())


def run_folder(summary: Summary) -> Path:
    """Return the folder of a demo's run."""
    return Path(summary["report"]).parent


def assert_same_bytes(first: Summary, second: Summary) -> None:
    """Check that two demos have the same identity and produced the same bytes, except times."""
    assert second["run_id"] == first["run_id"]
    assert second["loss"] == first["loss"]
    a, b = run_folder(first), run_folder(second)
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
