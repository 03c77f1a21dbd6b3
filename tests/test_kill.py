"""SIGKILL at random moments: after any kill, running again gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import make_tiny_run
from tests.once import made_once
from tuneloop.artifacts import records
from tuneloop.runs import store_app
from tuneloop.runs.local import run_plan
from tuneloop.training.sft.metrics import MEASURED

KILLS = {"export": 2, "train": 3, "eval": 2, "import": 2}
"""Stage -> kills. `TUNELOOP_KILLS=9 pytest tests/test_kill.py` kills each stage that often."""
STAGES = ("export", "train", "eval", "import")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, made once for all workers; `folder/seconds.json` has its durations."""

    def make(root: Path) -> None:
        run = make_tiny_run(root)
        with store_app.running(f"sqlite:///{root / 'store.db'}", run.artifacts) as url:
            results = run_plan(run.change(execution__store_url=url).plan())
        seconds = {result.name: result.seconds for result in results}
        (root / "seconds.json").write_text(json.dumps(seconds))

    return made_once(tmp_path_factory, "undisturbed", make)


@pytest.fixture
def fresh_store(tmp_path: Path) -> Iterator[str]:
    artifacts = str(tmp_path / "unused")
    with store_app.running(f"sqlite:///{tmp_path / 'fresh.db'}", artifacts) as url:
        yield url


def rewind(finished: Path, folder: Path, stage: str) -> str:
    """Copy the finished run in its state before a stage; returns the run id."""
    shutil.copytree(finished / "artifacts", folder / "artifacts")
    (run,) = (folder / "artifacts" / "training_runs").iterdir()
    for later in STAGES[STAGES.index(stage) :]:
        record = json.loads((run / later / "record.json").read_bytes())
        (folder / "artifacts" / "stages" / f"{record['fingerprint']}.json").unlink()
        shutil.rmtree(run / later)
    return run.name


def stage_process(runner: int, stage: str) -> int | None:
    """Return the process id of the stage that a `tuneloop run` has started."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == runner and argv[1:4] == [b"-m", b"jobs", stage.encode()]:
            return int(entry.name)
    return None


def run_and_kill(command: list[str], repository: Path, stage: str, delay: float) -> bool:
    """Start the run and kill its stage after a delay; returns False if the stage was faster."""
    runner = subprocess.Popen(
        command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    victim = None
    while victim is None and runner.poll() is None:
        victim = stage_process(runner.pid, stage)
    killed = False
    if victim is not None:
        time.sleep(delay)
        try:
            os.kill(victim, signal.SIGKILL)
            killed = True
        except ProcessLookupError:
            pass
        while killed and stage_process(runner.pid, STAGES[-1]) is None and runner.poll() is None:
            time.sleep(0.02)
    _, stderr = runner.communicate(timeout=120)
    # A kill after the record exists changes nothing, because the stage has succeeded.
    if killed and runner.returncode != 0:
        assert runner.returncode == 20, stderr
        assert f"stage {stage} was killed by SIGKILL" in stderr
        assert "run again to continue" in stderr
        return True
    assert runner.returncode == 0, stderr
    return False


def contents(artifacts: Path, run_id: str) -> dict[str, Any]:
    """Compute digests of everything that a run produced, without times."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        record = records.find(str(artifacts), run_id, stage)
        assert record is not None
        for file in record.outputs:
            records.read_output(file, str(artifacts))
        found[stage] = (record.fingerprint, record.content(), record.results)
        counts = dict(record.counts)
        counts.pop("resumed_from_step", None)
        found[f"{stage} counts"] = counts
    run = artifacts / "training_runs" / run_id
    for name in ("eval_before.jsonl", "samples.jsonl", "delta_report.md", "delta_report.json"):
        found[name] = (run / name).read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    found["metrics"] = [{k: v for k, v in r.items() if k not in MEASURED} for r in rows]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_the_run_ends_in_the_same_bytes(
    stage: str, finished: Path, tmp_path: Path, repository: Path, fresh_store: str
) -> None:
    seconds = json.loads((finished / "seconds.json").read_bytes())[stage]
    rng = random.Random(stage)
    folder = tmp_path / "run"
    run_id = rewind(finished, folder, stage)
    command = [
        *(sys.executable, "-m", "tuneloop.cli", "run", str(finished / "run.yaml")),
        *("--artifacts", str(folder / "artifacts"), "--store", fresh_store),
    ]
    kills, wanted = 0, int(os.environ.get("TUNELOOP_KILLS", KILLS[stage]))
    for _ in range(4 * wanted):
        # The kills are spread over the stage, so that they hit all its parts at any machine speed.
        delay = (kills + rng.random()) / wanted * seconds
        if run_and_kill(command, repository, stage, delay):
            kills += 1
            # No partial file has a final name: a record is complete or does not exist.
            for name in STAGES:
                records.find(str(folder / "artifacts"), run_id, name)
        else:
            # The caches are warm by now, so the stage is faster than before.
            seconds = min(seconds, delay)
            assert contents(folder / "artifacts", run_id) == contents(
                finished / "artifacts", run_id
            )
            shutil.rmtree(folder)
            rewind(finished, folder, stage)
        if kills == wanted:
            break
    assert kills == wanted, f"only {kills} kills in {4 * wanted} attempts"
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    assert contents(folder / "artifacts", run_id) == contents(finished / "artifacts", run_id)
    page = httpx.get(f"{fresh_store}/api/traces", params={"limit": 100}).json()
    assert len(page["data"]) == 20  # Each eval trace is stored once, even if its import was killed.
