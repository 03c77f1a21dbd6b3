"""The application as a whole: probes, replicas, and a database that fails."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, BUILD, Make, build
from tests.store_fixtures import CATALOG
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database

ON_SQLITE = pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)


def test_health(http: TestClient) -> None:
    assert http.get("/api/health").json() == {"status": "healthy"}


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_probes(http: TestClient, database: Database) -> None:
    assert http.get("/healthz").json() == {"status": "healthy"}
    reply = http.get("/readyz")
    assert (reply.status_code, reply.json()) == (
        200,
        {"status": "ready", "database": "ok", "artifacts": "ok"},
    )
    path = Path(database.place)
    database.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.mkdir()  # This path cannot be opened, even by root.
    reply = http.get("/readyz")
    assert (reply.status_code, reply.json()["database"]) == (503, "unavailable")
    assert str(path) not in reply.text
    assert http.get("/healthz").status_code == 200


def test_two_replicas_serve_the_same(
    new_database_url: Callable[[], str], artifacts: Path, make_trace: Make
) -> None:
    url = new_database_url()
    with contextlib.ExitStack() as both:
        one, other = (
            both.enter_context(TestClient(create_app(Database(url), str(artifacts), CATALOG)))
            for _ in range(2)
        )
        sent = one.post(BATCH, json=[make_trace(n) for n in range(3)]).json()["traces"]
        assert other.get(f"/api/traces/{sent[0]['id']}").status_code == 200
        key = build(other).json()["dataset_key"]
        assert one.get(f"/api/datasets/{key}").json() == other.get(f"/api/datasets/{key}").json()
        export = f"/api/datasets/{key}/export.jsonl?format=trace"
        assert one.get(export).content == other.get(export).content
        assert one.delete(f"/api/datasets/{key}").status_code == 204
        assert other.get(f"/api/datasets/{key}").status_code == 404


@ON_SQLITE
def test_a_damaged_database_is_a_sentence(
    http: TestClient, database: Database, make_trace: Make
) -> None:
    database.close()
    path = Path(database.place)
    path.write_bytes(b"no longer a database" * 1000)
    for left in path.parent.glob(f"{path.name}-*"):
        left.unlink()
    reply = http.post("/api/traces", json=make_trace())
    assert reply.status_code == 500
    assert reply.json()["detail"].startswith("The store's data is damaged")
    assert str(path) not in reply.text


def test_health_answers_while_datasets_are_built(
    store_url: str, database: Database, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, release = threading.Event(), threading.Event()
    selection = database.selection

    def held(*args: Any) -> Any:
        holding.set()
        release.wait(10)
        return selection(*args)

    monkeypatch.setattr(database, "selection", held)
    with httpx.Client(base_url=store_url) as client:
        client.post(BATCH, json=[make_trace()])
        request = {"dataset_name": "d", "dataset_version": "v1"}
        replies: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{store_url}{BUILD}", json=request))
        )
        thread.start()
        assert holding.wait(10)
        assert client.get("/api/health", timeout=2).status_code == 200
        assert client.post(BATCH, json=[make_trace()], timeout=2).status_code == 201
        release.set()
        thread.join()
    assert replies[0].status_code == 201
