"""Examples per second of the export stage with one process per core; compared with one process.

Whole processes by the clock: start, eval set, duplicates, outcome tables, records and the
closing of the accounts included. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figure import print_figure, sized
from store import REPOSITORY

import examples
from tests.builders import make_tiny_run
from tuneloop.specs.stages import dump_stage_spec

ROWS = sized(400_000, 800)
ROUNDS = sized(2, 1)


def run(folder: Path, count: int) -> float:
    """Return the examples per second of the stage with a number of processes."""
    (folder / "run").mkdir(parents=True)
    run = make_tiny_run(folder / "run")
    artifacts = str(folder.parent / "dataset")
    run.change(
        dataset="bench-v1", execution__datasets_url=artifacts, export__shard_examples=ROWS // 8
    )
    spec = folder / "spec.json"
    spec.write_bytes(dump_stage_spec(run.plan().stages[0]))
    command = [sys.executable, "-m", "jobs", "export", "--spec", str(spec), "--count", str(count)]
    since = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, "--index", str(index)], cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )
        for index in range(count)
    ]
    codes = [process.wait() for process in processes]
    assert codes == [0] * count, codes
    return ROWS / (time.perf_counter() - since)


def main() -> None:
    """Measure both alternately and print medians."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dataset").mkdir()
        examples.ROWS = ROWS
        examples.make_dataset(str(folder / "dataset"))
        pairs = []
        for number in range(ROUNDS):
            shared = run(folder / f"shared-{number}", cores)
            pairs.append((shared, run(folder / f"alone-{number}", 1)))
        print_figure("examples_processes", "examples/s", pairs)


if __name__ == "__main__":
    main()
