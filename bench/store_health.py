"""Response time of /healthz while the store builds and exports a dataset of a million traces.

The rival is the same store without other requests. Loading the traces takes a minute or two.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from figure import print_figure, sized
from store import BATCH, database_urls, make_bodies, peak_mib, running_store

from tuneloop.store.db.codec import fast_array
from tuneloop.store.db.database import Database

TRACES = sized(1_000_000, 1000)
IDLE_SECONDS = sized(5, 1)
PAUSE_SECONDS = 0.01


def fill(url: str) -> None:
    """Insert the traces without HTTP."""
    batches = [fast_array(body) or [] for body in make_bodies(10)]
    database = Database(url)
    for number in range(TRACES // BATCH):
        database.insert_batch(batches[number % len(batches)], now=datetime.now(UTC))
    database.close()


def ask(address: str, path: str, seconds: list[float], until: threading.Event) -> None:
    """Send requests repeatedly on the same connection."""
    connection = http.client.HTTPConnection(address, timeout=60)
    while not until.is_set():
        since = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        seconds.append(time.perf_counter() - since)
        time.sleep(PAUSE_SECONDS)


def curl(address: str, name: str, *more: str) -> subprocess.Popen[bytes]:
    """Start a client in a separate process, so that its work does not slow down the probes."""
    url = f"http://{address}/api/datasets/{name}"
    return subprocess.Popen(["curl", "-sSf", "-o", "/dev/null", url, *more])


def build(address: str, version: str) -> subprocess.Popen[bytes]:
    """Build all traces into a dataset."""
    request = {"dataset_name": "all", "dataset_version": version, "limit": TRACES, "seed": 1}
    return curl(address, "build", "-d", json.dumps(request))


def p99(seconds: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def measure(address: str, work: list[subprocess.Popen[bytes]] | None) -> list[float]:
    """Probe while the work runs; without work, probe for IDLE_SECONDS."""
    seconds: list[float] = []
    until = threading.Event()
    prober = threading.Thread(target=ask, args=(address, "/healthz", seconds, until))
    prober.start()
    if work is None:
        time.sleep(IDLE_SECONDS)
    for process in work or []:
        assert process.wait() == 0
    until.set()
    prober.join()
    return seconds


def main() -> None:
    """Measure the idle store, then the store during a build and an export of all traces."""
    with tempfile.TemporaryDirectory() as folder, database_urls(Path(folder)) as urls:
        for kind, url in urls.items():
            fill(url)
            with running_store(url, Path(folder) / kind) as (connection, pid):
                address = f"{connection.host}:{connection.port}"
                idle = measure(address, None)
                since = time.perf_counter()
                alone = measure(address, [build(address, "1")])
                built = time.perf_counter() - since
                print(f"{kind}: built in {built:.1f} s, /healthz p99 {p99(alone):.1f} ms", end="")
                print(f", server's peak {peak_mib(pid):.0f} MiB")
                export = curl(address, "all-1/export.jsonl?format=training_example")
                busy = measure(address, [build(address, "2"), export])
                print(f"{kind}: with an export beside it: worst {max(busy) * 1000:.1f} ms", end="")
                print(f", server's peak {peak_mib(pid):.0f} MiB")
                print_figure(f"store_health_{kind}", "ms", [(p99(busy), p99(idle))])


if __name__ == "__main__":
    main()
