"""Long work has its own threads, so that small requests never wait for builds or exports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tuneloop.store.db.database import Database
from tuneloop.store.dependencies import BUILD_THREADS, EXPORT_THREADS
from tuneloop.store.metrics import Metrics
from tuneloop.store.routes.streams import BlocksResponse, measured

Make = Callable[..., dict[str, Any]]
BUILD = "/api/datasets/build"
WAIT_SECONDS = 10


def wanted(version: int) -> dict[str, str]:
    return {"dataset_name": "d", "dataset_version": f"v{version}"}


class Held:
    """A selection that waits to be released, and the number of threads that wait in it."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner, self._lock = inner, threading.Lock()
        self.release = threading.Event()
        self.inside = self.most = 0

    def __call__(self, *args: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.release.wait(WAIT_SECONDS)
        with self._lock:
            self.inside -= 1
        return self._inner(*args)


@pytest.fixture
def held(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Replace the selection by one that waits."""
    one = Held(database.selection)
    monkeypatch.setattr(database, "selection", one)
    yield one
    one.release.set()


def test_small_requests_do_not_wait_for_builds(
    store_url: str, held: Held, make_trace: Make, app: FastAPI
) -> None:
    builds = 45  # These are more than all threads for small requests.
    with httpx.Client(base_url=store_url, timeout=5) as client, ThreadPoolExecutor(builds) as pool:
        client.post("/api/traces", json=make_trace())
        replies = [
            pool.submit(httpx.post, f"{store_url}{BUILD}", json=wanted(n % 3), timeout=60)
            for n in range(builds)
        ]
        waiting = app.state.service.build_threads
        deadline = time.monotonic() + WAIT_SECONDS
        while waiting.statistics().tasks_waiting < builds - BUILD_THREADS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        start = time.monotonic()
        for path in ("/api/traces", "/healthz", "/readyz", "/metrics", "/api/datasets"):
            assert client.get(path).status_code == 200
        assert client.post("/api/traces", json=make_trace(1)).status_code == 201
        assert time.monotonic() - start < 5
        held.release.set()
        assert {reply.result().status_code for reply in replies} <= {200, 201, 409}
    assert held.most == BUILD_THREADS


def test_an_abandoned_export_is_closed_and_counted() -> None:
    metrics, closed = Metrics(), threading.Event()

    def endless() -> Generator[bytes]:
        try:
            while True:
                yield b"line\n"
        finally:
            closed.set()

    async def run() -> None:
        blocks = measured(endless(), metrics, "trace")
        response = BlocksResponse(next(blocks), blocks, anyio.CapacityLimiter(1), 1)
        sent = 0

        async def receive() -> Any:
            while sent < 3:
                await anyio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            nonlocal sent
            sent += 1

        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)

    anyio.run(run)
    assert closed.is_set()
    assert b'format="trace",outcome="disconnected"' in metrics.render("")[0]


def test_many_exports_at_a_time_are_all_whole(
    store_url: str, make_trace: Make, artifacts: Path
) -> None:
    steps = [{"i": 0, "type": "t", "content": "s" * 20_000}]
    with httpx.Client(base_url=store_url) as client:
        traces = [make_trace(n, steps=steps) for n in range(20)]
        assert client.post("/api/traces/batch", json=traces).status_code == 201
        assert client.post(BUILD, json=wanted(1)).status_code == 201
    url = f"{store_url}/api/datasets/d-v1/export.jsonl"
    with ThreadPoolExecutor(3 * EXPORT_THREADS) as pool:
        bodies = list(pool.map(lambda _: httpx.get(url).content, range(3 * EXPORT_THREADS)))
    assert len(bodies[0].splitlines()) == 20
    assert len(set(bodies)) == 1


def test_the_limits_do_not_mind_the_loop(http: TestClient, app: FastAPI, make_trace: Make) -> None:
    http.post("/api/traces", json=make_trace())
    http.post(BUILD, json=wanted(1))
    alone = TestClient(app)  # The test client starts an event loop per request.
    for _ in range(3):
        assert alone.get("/api/datasets/d-v1/export.jsonl?format=ids").status_code == 200
        assert alone.post(BUILD, json=wanted(1)).status_code == 200
