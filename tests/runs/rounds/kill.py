"""Kill real rounds at random moments, and compare what they leave with rounds that ran through.

    python -m tests.runs.rounds.kill --kills 20 [--planted] [--folder FOLDER] [--seed 0]

With `--planted`, the stages are those of the planted world, which take a tenth of a second, and all
is done in two minutes of processor time; without it, the stages are real and it takes ten. SIGKILL
goes to the process that runs the rounds and, in every second case, to the stage's process as well,
as if the machine had lost its power.
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
        "max_new_tokens": 32,
        "temperature": 0.5,
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


def start(run: TinyRun, *, planted: bool = False) -> subprocess.Popen[bytes]:
    """Start the rounds in a process of their own."""
    verb = ["tests.runs.rounds.world"] if planted else ["tuneloop.cli", "run"]
    command = [sys.executable, "-m", *verb, str(run.spec_path)]
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


def make(folder: Path, eval_set: str | None = None, **changes: Any) -> TinyRun:
    """Create a dataset and a spec of rounds, with changed keys of `rounds`."""
    folder.mkdir(parents=True, exist_ok=True)
    # After 60 steps, most samples have an answer.
    run = make_tiny_run(folder).change(train__steps=60, rounds={**ROUNDS, **changes})
    return run.change(eval__eval_set=eval_set) if eval_set else run


def run_killed(run: TinyRun, kills: int, took: float, rng: random.Random, planted: bool) -> int:
    """Run rounds to their end, and kill them on the way; return the number of kills."""
    done = 0
    while done < kills:
        process = start(run, planted=planted)
        # With planted stages, the first third of the time goes to imports.
        least, most = (0.3, 0.6) if planted else (0.05, 0.4)
        pause = min(MOST_SECONDS, rng.uniform(least, most) * took)
        try:
            if process.wait(pause):
                raise SystemExit("the killed rounds have failed")
            return done
        except subprocess.TimeoutExpired:
            kill(process, with_stage=bool(done % 2))
            done += 1
            say(f"kill {done} after {pause:.1f} s")
    if start(run, planted=planted).wait():
        raise SystemExit("the killed rounds have failed")
    return done


def main(kills: int, folder: Path, seed: int, *, planted: bool) -> None:
    """Run rounds through, kill others as often as asked, and compare them."""
    changes: dict[str, Any] = {"seeds": [1, 2]} if planted else {}
    whole = make(folder / "whole", **changes)
    began = time.monotonic()
    if start(whole, planted=planted).wait():
        raise SystemExit("the rounds that run through have failed")
    took = time.monotonic() - began
    say(f"ran through in {took:.0f} s")
    expected, rng, done, number = content(whole.artifacts), random.Random(seed), 0, 0
    while done < kills:
        number += 1
        eval_set = str(folder / "whole" / "eval.jsonl")
        killed = make(folder / f"killed-{number}", eval_set, **changes)
        done += run_killed(killed, kills - done, took, rng, planted)
        time.sleep(1)  # a stage that outlived its runner may still write its log
        found = content(killed.artifacts)
        differ = sorted(n for n in expected.keys() | found if expected.get(n) != found.get(n))
        say(f"{done} kills, {len(expected)} files compared, {len(differ)} differ: {differ[:10]}")
        if differ:
            raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--planted", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        main(given.kills, given.folder or Path(made), given.seed, planted=given.planted)
