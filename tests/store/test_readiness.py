"""Probes answer whatever hangs, and HEAD works."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, build
from tests.store_fixtures import CATALOG, serving
from tuneloop.errors import TuneloopError, Unavailable
from tuneloop.settings.limits import Limits
from tuneloop.storage import files
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.dependencies import ARTIFACT_QUEUE, ARTIFACT_THREADS
from tuneloop.store.readiness import check_room

ON_SQLITE = pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)


class Hanging:
    """An artifact store that does not answer until it is released."""

    def __init__(self) -> None:
        self.release, self.asked = threading.Event(), 0

    def __call__(self, *_: Any) -> Any:
        self.asked += 1
        self.release.wait(30)
        return []


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    one = Hanging()
    yield one
    one.release.set()


@ON_SQLITE
def test_a_hanging_artifact_store_delays_nothing_else(
    database: Database,
    artifacts: Path,
    hanging: Hanging,
    make_trace: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "exists", hanging)
    monkeypatch.setattr(files, "list_folders", hanging)
    app = create_app(database, str(artifacts), CATALOG, limits=Limits(probe_seconds=0.3))
    lists = ARTIFACT_THREADS + ARTIFACT_QUEUE
    with serving(app) as url, ThreadPoolExecutor(lists) as pool:
        probes = list(pool.map(lambda _: httpx.get(f"{url}/readyz"), range(10)))
        assert {probe.status_code for probe in probes} == {503}
        assert probes[0].json() == {
            "status": "not ready",
            "database": "ok",
            "artifacts": "unavailable",
        }
        assert hanging.asked == 1  # All of them share one thread.
        replies = [pool.submit(httpx.get, f"{url}/datasets", timeout=60) for _ in range(lists)]
        waiting = app.state.service.artifact_threads
        deadline = time.monotonic() + 10
        while waiting.statistics().tasks_waiting < ARTIFACT_QUEUE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        start = time.monotonic()
        assert httpx.get(f"{url}/datasets").status_code == 503
        assert httpx.post(f"{url}{BATCH}", json=[make_trace()]).status_code == 201
        assert httpx.get(f"{url}/api/traces").status_code == 200
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert time.monotonic() - start < 3
        hanging.release.set()
        assert {reply.result().status_code for reply in replies} == {200}
        assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_probe_does_not_need_a_connection_of_the_pool(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database._engine, "begin", None)
    assert http.get("/readyz").json()["database"] == "ok"


@ON_SQLITE
def test_a_database_that_cannot_be_written_is_not_ready(
    new_database_url: Callable[[], str], artifacts: Path
) -> None:
    url = new_database_url()
    limits = Limits(free_disk_bytes=2**50)
    with TestClient(create_app(Database(url), str(artifacts), CATALOG, limits=limits)) as http:
        assert http.get("/readyz").json() == {
            "status": "not ready",
            "database": "unavailable",
            "artifacts": "unavailable",
        }


def test_room_is_checked_where_a_folder_would_be_created(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "yet", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unavailable, match=r"bytes of free space, expected .*; free some space"):
        check_room(tmp_path, 2**60)


def test_a_full_disk_has_no_room(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        check_room(tmp_path, 0)
        (tmp_path / "full").write_bytes(bytes(64 << 10))
        with pytest.raises(TuneloopError, match="No space left"):
            check_room(tmp_path, 0)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@ON_SQLITE
def test_head_is_get_without_the_body(http: TestClient, make_trace: Make, app: FastAPI) -> None:
    made = http.post(BATCH, json=[make_trace()]).json()["traces"][0]["id"]
    build(http)
    paths = ["/healthz", "/readyz", "/api/health", "/metrics", "/api/traces", "/api/datasets"]
    paths += [f"/api/traces/{made}", "/api/datasets/d-v1", "/openapi.json", "/", "/traces"]
    for path in paths:
        got, headed = http.get(path), http.head(path)
        assert (headed.status_code, headed.content) == (200, b""), path
        assert headed.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":
            assert headed.headers["content-length"] == str(len(got.content))
    assert http.head("/nowhere").status_code == 404
    assert http.head("/api/traces/batch").status_code in (404, 405, 422)
    assert http.head("/api/datasets/d-v1/export.jsonl").status_code == 405
    counted = app.state.service.metrics.render("")[0].decode()
    assert 'tuneloop_http_requests_total{method="HEAD",route="/api/traces",status="200"}' in counted


def test_head_over_a_socket_keeps_the_connection(store_url: str) -> None:
    with httpx.Client(base_url=store_url) as client:
        for path in ("/healthz", "/api/traces", "/readyz"):
            assert client.head(path).content == b""
            assert client.get(path).status_code == 200
