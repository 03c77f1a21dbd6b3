"""Seconds and peak memory of a build that selects among a million traces by quality.

The request has comparisons of reward and length, the pass rate of prompts, near-duplicates by
MinHash, the best four traces of each prompt and a cap for each category. The traces have 1.2 kB,
eight of each prompt, and a tenth of them are near-duplicates. A process of its own builds, and
reports its peak memory; the limits are 300 s and 1 GiB. Needs 4 GB of disk and ten minutes.

The rival, on fewer traces, has the same rules in memory: json of the standard library, rensa's own
index of MinHash sketches, and sorted lists. Both programs read the same SQLite file and write one
file.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figure import print_figure, sized
from rensa import RMinHash, RMinHashLSH

from tuneloop.datasets.build import build
from tuneloop.datasets.schema import BuildRequest
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.traces.schema import ReasoningTrace, build_trace

TRACES, COMPARED, ROUNDS = sized(1_000_000, 400), sized(50_000, 400), sized(3, 1)
PER_PROMPT = 8
LIMIT_SECONDS, LIMIT_MIB = 300.0, 1024.0
RULES: dict[str, Any] = {
    "where": {"reward": {"min": 0.25}, "length": {"max": 20_000}},
    "pass_rate": {"threshold": 0.5, "max": 0.99},
    "near_duplicates": {},
    "best_of": {"count": 4},
    "caps": {"/category": TRACES},
}
_BUILD = "--build"


def fill(url: str, count: int) -> None:
    """Store traces of 1.2 kB, eight of each prompt."""
    rng = random.Random(0)
    database = Database(url)
    last = ""
    for start in range(0, count, 1000):
        batch = []
        for number in range(start, min(start + 1000, count)):
            if number % 10 or not last:
                last = " ".join(f"w{rng.randrange(50_000)}" for _ in range(150))
            words = last.split()
            steps = [" ".join(words[at : at + 30]) for at in range(0, 150, 30)]
            trace = build_trace(
                f"What is problem number {number // PER_PROMPT}, in words?",
                steps,
                f"answer {number}",
                meta={"category": f"c{number % 17}", "source": "bench"},
                reward=rng.randrange(9) / 8,
            )
            batch.append(new_trace(ReasoningTrace.model_validate(trace)))
        database.insert_batch(batch, now=datetime.now(UTC))
    database.close()


def ours(url: str, folder: str) -> tuple[float, float]:
    """Build in a process of its own; returns its seconds and its peak memory in MiB."""
    command = [sys.executable, __file__, _BUILD, url, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split()[-2:])
    print(done.stdout.rsplit("\n", 2)[0])
    return seconds, peak


def build_here(url: str, folder: str) -> None:
    """Build and print what each rule removed, the seconds, and the peak memory in MiB."""
    request = BuildRequest.model_validate(
        {"dataset_name": "d", "dataset_version": "v", "limit": TRACES, "selection": RULES}
    )
    database = Database(url)
    since, cpu_since = time.perf_counter(), time.process_time()
    manifest, _ = build(
        lambda seed: database.selection(request, seed),
        request,
        folder,
        now=datetime.now(UTC),
        new_seed=lambda: 1,
    )
    seconds = time.perf_counter() - since
    print(f"{time.process_time() - cpu_since:.1f} CPU seconds")
    if manifest.account is not None:
        print(*(f"{one.rule}: -{one.removed}" for one in manifest.account.rules), sep=", ")
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(seconds, int(peak.split()[1]) / 1024)


def rival(path: str, file: Path) -> float:
    """Select the same way with everything in memory; returns the seconds."""
    since = time.perf_counter()
    rows = sqlite3.connect(path).execute("SELECT payload FROM traces ORDER BY seq DESC").fetchall()
    traces = [json.loads(row[0]) for row in rows]
    rates: dict[str, list[bool]] = defaultdict(list)
    for trace in traces:
        rates[trace["prompt"]].append(trace["reward"] >= 0.5)
    kept = [
        trace
        for trace in traces
        if trace["reward"] >= 0.25
        and sum(rates[trace["prompt"]]) / len(rates[trace["prompt"]]) <= 0.99
    ]
    kept.sort(key=lambda trace: -trace["reward"])
    index, unique = RMinHashLSH(threshold=0.8, num_perm=112, num_bands=14), []
    for number, trace in enumerate(kept):
        text = " ".join([trace["prompt"], *(step["content"] for step in trace["steps"])]).lower()
        words = text.split()
        sketch = RMinHash(num_perm=112, seed=1)
        sketch.update([" ".join(words[at : at + 5]) for at in range(len(words) - 4)])
        if not index.query(sketch):
            unique.append(trace)
        index.insert(number, sketch)
    counts: Counter[str] = Counter()
    best = []
    for trace in unique:
        counts[trace["prompt"]] += 1
        if counts[trace["prompt"]] <= 4:
            best.append(trace)
    data = "".join(json.dumps(trace, sort_keys=True) + "\n" for trace in best).encode()
    file.write_bytes(data)
    hashlib.sha256(data).hexdigest()
    return time.perf_counter() - since


def main() -> None:
    """Measure a build among a million traces, then builds alternately with the rival."""
    if _BUILD in sys.argv:
        build_here(*sys.argv[sys.argv.index(_BUILD) + 1 :][:2])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = f"{folder}/small.db", f"{folder}/large.db"
        fill(f"sqlite:///{small}", COMPARED)
        pairs = [
            (ours(f"sqlite:///{small}", f"{folder}/out{n}")[0], rival(small, folder / "rival"))
            for n in range(ROUNDS)
        ]
        fill(f"sqlite:///{large}", TRACES)
        seconds, peak = ours(f"sqlite:///{large}", f"{folder}/out")
        print_figure("selection_rival", "s", pairs)
        print_figure("selection_memory", "MiB", [(peak, LIMIT_MIB)])
        print_figure("selection", "s", [(seconds, LIMIT_SECONDS)])


if __name__ == "__main__":
    main()
