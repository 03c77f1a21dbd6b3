"""Run stores in their own processes, and compare their databases with the sent batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.builders import meta_of
from tests.postgres import free_port
from tuneloop.datasets.schema import BuildRequest
from tuneloop.store.db.database import Database

START_SECONDS = 60.0


class Store:
    """A store in its own process, which keeps its port when it is restarted."""

    def __init__(
        self,
        database: str,
        artifacts: Path,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "tuneloop.cli", "serve", "--port", str(self.port)]
        self._command += ["--artifacts", str(artifacts)]
        self._environment = {**os.environ, **(env or {}), "TUNELOOP_DATABASE": database}
        self._log = log
        self.start()

    def start(self) -> None:
        if self._log is None:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stderr=subprocess.DEVNULL
            )
            return
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stderr=log)

    def wait_until_ready(self) -> None:
        """Poll /readyz until it returns 200, as a readiness probe does."""
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert time.monotonic() < deadline, "the store does not come up"
            assert self.process.poll() is None, "the store has ended"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL, "it was not running any more"

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)

    def statuses(self) -> Counter[int]:
        """Count the status codes of replies to POST in the access log."""
        assert self._log is not None
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        requests = map(json.loads, lines)
        return Counter(each["status"] for each in requests if each["method"] == "POST")


def check_batches(url: str, sent: dict[str, int], acked: set[str]) -> set[str]:
    """Check that acknowledged batches are stored once and whole, and that none is stored in part.

    Args:
        url: URL of the database.
        sent: number of traces (`meta.i` is a trace's number) by batch name (`meta.batch`).
        acked: names of the acknowledged batches.

    Returns:
        The names of the stored batches.
    """
    database = Database(url)
    request = BuildRequest(dataset_name="d", dataset_version="v", limit=10_000_000)
    with database.selection(request, 0) as selection:
        found = Counter(
            (meta["batch"], meta["i"]) for meta in (meta_of(row) for row in selection.rows)
        )
    database.close()
    assert set(found.values()) == {1}, "a trace is there twice"
    held = Counter(name for name, _ in found)
    torn = {name: count for name, count in held.items() if count != sent[name]}
    assert torn == {}, "half a batch is there"
    assert acked - held.keys() == set(), "an acknowledged batch is gone"
    return set(held)
