"""Seconds to build a dataset of 10,000 out of 100,000 traces over HTTP, on both databases.

The rival is a minimal build: it reads the newest rows, encodes them with json of the standard
library, and writes and hashes a file.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sqlite3
import tempfile
import time
from pathlib import Path

import psycopg
from figure import print_figure, sized
from store import BATCH, database_urls, make_bodies, peak_mib, post, running_store

TRACES, CHOSEN, ROUNDS = sized(100_000, 200), sized(10_000, 20), sized(5, 1)
SELECT = f"SELECT id, created_at, payload FROM traces ORDER BY created_at DESC LIMIT {CHOSEN}"


def build(connection: http.client.HTTPConnection, number: int) -> float:
    """Build another version of the dataset and return the seconds that it took."""
    request = {"dataset_name": "bench", "dataset_version": str(number), "limit": CHOSEN, "seed": 1}
    since = time.perf_counter()
    post(connection, "/api/datasets/build", json.dumps(request).encode())
    return time.perf_counter() - since


def rival(url: str, file: Path) -> float:
    """Run the minimal build and return the seconds that it took."""
    since = time.perf_counter()
    if url.startswith("sqlite"):
        rows = sqlite3.connect(url.removeprefix("sqlite:///")).execute(SELECT).fetchall()
    else:
        with psycopg.connect(url) as connection:
            rows = connection.execute(SELECT).fetchall()
    lines = [json.dumps({"id": str(r[0]), "at": str(r[1]), **json.loads(r[2])}) for r in rows]
    data = "\n".join(lines).encode()
    file.write_bytes(data)
    hashlib.sha256(data).hexdigest()
    return time.perf_counter() - since


def main() -> None:
    """Measure both alternately."""
    bodies = make_bodies(10)
    with tempfile.TemporaryDirectory() as folder, database_urls(Path(folder)) as urls:
        for kind, url in urls.items():
            with running_store(url, Path(folder) / kind) as (ours, pid):
                for number in range(TRACES // BATCH):
                    post(ours, "/api/traces/batch", bodies[number % len(bodies)])
                before = peak_mib(pid)
                pairs = [
                    (build(ours, n), rival(url, Path(folder) / "rival")) for n in range(ROUNDS)
                ]
                print(f"{kind}: server's peak {peak_mib(pid):.0f} MiB, {before:.0f} before builds")
                print_figure(f"store_build_{kind}", "s", pairs)


if __name__ == "__main__":
    main()
