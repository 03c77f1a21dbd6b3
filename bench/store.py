"""Shared parts of the store benchmarks: a store in a separate process, and traces to post."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from figure import sized

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.postgres import running_postgres  # noqa: E402 - needs the path above

BATCH = sized(1000, 20)
_WORDS = "add the numbers carry one then compare both sides of it and keep larger".split()
_FOREIGN = "Añade los números, después répète — 数を足す、そして比べる".split()


def make_bodies(batches: int, seed: int = 0) -> list[bytes]:
    """Make JSON arrays of BATCH traces, like those of the measured peer.

    A trace has 1,440 bytes and 5.5 steps on average. A quarter of the prompts use non-ASCII words.
    """
    rng = random.Random(seed)
    return [json.dumps([_trace(rng) for _ in range(BATCH)]).encode() for _ in range(batches)]


def _trace(rng: random.Random) -> dict[str, object]:
    def text(characters: int, words: list[str]) -> str:
        return " ".join(rng.choices(words, k=characters // 5))[:characters]

    prompt = text(220, _FOREIGN if rng.random() < 0.26 else _WORDS)
    steps = [
        {"i": n, "type": "reason", "content": text(102, _WORDS)} for n in range(rng.randint(3, 8))
    ]
    meta = {"source": f"s{rng.randrange(10)}", "number": rng.randrange(10**6)}
    return {
        "trace_version": "1.0",
        "prompt": prompt,
        "final_answer": str(rng.randrange(1000)),
        "steps": steps,
        "meta": meta,
    }


@contextlib.contextmanager
def running_store(
    database: str, artifacts: Path
) -> Iterator[tuple[http.client.HTTPConnection, int]]:
    """Run the store with `tuneloop serve`; yield a connection and the server's process id."""
    command = [sys.executable, "-m", "tuneloop.cli", "serve", "--port", "0"]
    command += ["--database", database, "--artifacts", str(artifacts)]
    artifacts.mkdir(exist_ok=True)
    log = artifacts / "log.txt"  # not a pipe, because a full pipe blocks
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"http://([\d.]+):(\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=600)
        yield connection, process.pid
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@contextlib.contextmanager
def database_urls(folder: Path) -> Iterator[dict[str, str]]:
    """Yield an empty database of each kind; PostgreSQL uses fsync, as in production."""
    with running_postgres(fsync=True) as server, server.lent() as lend:
        yield {"sqlite": f"sqlite:///{folder / 'store.db'}", "postgresql": lend()}


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    """Send one request and return the body of its successful response."""
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    assert response.status in (200, 201), data[:500]
    return data


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
