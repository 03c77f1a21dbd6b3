"""Kill real rounds at random moments, and compare what they leave with rounds that ran through.

    python -m tests.runs.rounds.kill --kills 20 [--folder FOLDER] [--seed 0]

Takes minutes of processor time. SIGKILL goes to the process that runs the rounds and, in every
second case, to the stage's process as well, as if the machine had lost its power.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.builders import TinyRun, make_tiny_run
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.rounds.store import RoundsManifest, load_rounds
from tuneloop.datasets.read import load_manifest

ROUNDS: dict[str, Any] = {
    "count": 2,
    "seeds": [1],
    "sample": {
        "prompts": {"kind": "dataset", "dataset": "letters-v1", "limit": 24},
        "completions": 2,
        "max_new_tokens": 16,
        "batch_size": 48,
    },
    # The tiny model is rarely right, and every answer should be something to train on.
    "select": {"where": {"reward": {"min": 0}}},
    "train": {"train.steps": 4},
}
MOST_SECONDS = 60.0
"""Longest time to a kill."""


def rounds_of(artifacts: str) -> RoundsManifest:
    """Return the only rounds below a prefix."""
    (folder,) = Path(layout.all_rounds_prefix(artifacts)).iterdir()
    return load_rounds(artifacts, folder.name)


def content(artifacts: str) -> dict[str, str]:
    """Digest all that rounds leave, without attempts, times and hosts."""
    manifest = rounds_of(artifacts)
    folder = Path(layout.rounds_prefix(artifacts, manifest.rounds_id))
    found = {
        f"rounds/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    for member in manifest.members:
        for stage in member.stages:
            record = records.find(artifacts, member.run_id, stage)
            assert record is not None, f"{member.run_id}/{stage} has no record"
            found |= {f"{member.run_id}/{stage}/{n}": d for n, d in record.content().items()}
        if member.dataset:
            dataset = load_manifest(artifacts, member.dataset)
            found |= {f"{member.dataset}/{each.name}": each.sha256 for each in dataset.shards}
    return found


def start(run: TinyRun) -> subprocess.Popen[bytes]:
    """Start the rounds in a process of their own."""
    command = [sys.executable, "-m", "tuneloop.cli", "run", str(run.spec_path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def kill(process: subprocess.Popen[bytes], *, with_stage: bool) -> None:
    """Kill a process, and the processes that it has started if asked."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    for child in children if with_stage else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def make(folder: Path, eval_set: str | None = None) -> TinyRun:
    """Create a dataset and a spec of rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    run = make_tiny_run(folder).change(train__steps=4, rounds=ROUNDS)
    return run.change(eval__eval_set=eval_set) if eval_set else run


def main(kills: int, folder: Path, seed: int) -> None:
    """Run both, and compare."""
    whole = make(folder / "whole")
    killed = make(folder / "killed", str(folder / "whole" / "eval.jsonl"))
    began = time.monotonic()
    if start(whole).wait():
        raise SystemExit("the rounds that run through have failed")
    took = time.monotonic() - began
    say(f"ran through in {took:.0f} s")
    rng, done = random.Random(seed), 0
    while done < kills:
        process = start(killed)
        # From the first import to the middle of a round.
        pause = min(MOST_SECONDS, rng.uniform(0.02, 0.35) * took)
        try:
            if process.wait(pause) == 0:
                say("the rounds were done early")
                break
            raise SystemExit("the killed rounds have failed")
        except subprocess.TimeoutExpired:
            kill(process, with_stage=bool(done % 2))
            done += 1
            say(f"kill {done} after {pause:.1f} s")
    if start(killed).wait():
        raise SystemExit("the killed rounds have failed")
    time.sleep(1)  # a stage that outlived its runner may still write its log
    expected, found = content(whole.artifacts), content(killed.artifacts)
    differ = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    say(f"{done} kills, {len(expected)} files compared, {len(differ)} differ: {differ[:10]}")
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.folder is not None:
        main(given.kills, given.folder, given.seed)
    with tempfile.TemporaryDirectory() as made:
        main(given.kills, Path(made), given.seed)
