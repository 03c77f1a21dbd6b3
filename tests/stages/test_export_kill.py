"""SIGKILL while an export with duplicates writes, resolves or rewrites: the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.builders import REPOSITORY
from tests.stages.test_export import export, plan_of, record_of, trace
from tuneloop.specs.stages import dump_stage_spec

TRACES = [trace(n % 1500, prompt=f"Upper: {n % 1500} letters of " + "x" * 400) for n in range(6000)]
"""Three in four duplicate another, in other files: the closing writes most files again."""
OPTIONS: dict[str, Any] = {"shard_examples": 250, "validation_fraction": 0.2}
KILLS = 6


def test_killed_at_any_time_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "undisturbed").mkdir()
    expected = plan_of(tmp_path / "undisturbed", TRACES, **OPTIONS)
    assert export(expected, tmp_path / "undisturbed") == 0
    assert record_of(expected).counts["excluded_duplicate"] == 4500

    (tmp_path / "killed").mkdir()
    spec = plan_of(tmp_path / "killed", TRACES, **OPTIONS)
    url = tmp_path / "killed" / "spec.json"
    url.write_bytes(dump_stage_spec(spec))
    command = [sys.executable, "-m", "jobs", "export", "--spec", str(url)]
    attempts = Path(spec.execution.artifacts, "training_runs", spec.run_id, "export", "attempts")
    rng, killed, rewriting = random.Random(5), 0, 0
    for number in range(KILLS):
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        before = {*attempts.glob("*")}
        # Half of them die while they write, half after the first file was written again.
        late = number % 2
        while process.poll() is None:
            new = {*attempts.glob("*")} - before
            if any(next(found.glob("final/*.jsonl" if late else "*.jsonl"), None) for found in new):
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.kill()
        gone = process.wait() == -9
        killed += gone
        rewriting += gone and bool(late)
    assert killed >= KILLS // 2
    assert rewriting
    assert export(spec, tmp_path / "killed") == 0
    assert record_of(spec).content() == record_of(expected).content()
    assert record_of(spec).counts == record_of(expected).counts
