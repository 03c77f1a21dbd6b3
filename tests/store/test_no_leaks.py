"""No reply contains a path of the server, a secret or a traceback, even if something is broken."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tuneloop.datasets import read
from tuneloop.errors import PermissionDenied, SpecError, Transient, Unavailable
from tuneloop.storage import files as storage_files
from tuneloop.store.db.database import Database
from tuneloop.store.db.labels import Labels
from tuneloop.store.db.scores import Scores

Make = Callable[..., dict[str, Any]]
Break = Callable[[Path, Path, pytest.MonkeyPatch], None]
BUILD = "/api/datasets/build"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    """A client that returns replies to unexpected errors, as a real server does."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def trace_id(http: TestClient, make_trace: Make) -> str:
    """Id of one of three traces in the dataset d-v1."""
    made = http.post("/api/traces/batch", json=[make_trace(n) for n in range(3)]).json()
    assert build(http).status_code == 201
    return str(made["traces"][0]["id"])


def build(http: TestClient, version: str = "v1") -> Any:
    return http.post(BUILD, json={"dataset_name": "d", "dataset_version": version})


def ask_everything(http: TestClient, trace_id: str, trace: dict[str, Any]) -> Iterator[Any]:
    yield from (http.post("/api/traces", json=trace), http.post("/api/traces/batch", json=[trace]))
    yield from (build(http), build(http, "v2"))
    compare = f"/api/traces/compare?base={trace_id}&other={UNKNOWN}"
    for path in ("/api/traces", f"/api/traces/{trace_id}", compare, "/readyz", "/api/datasets"):
        yield http.get(path)
    yield http.post(f"/api/traces/{trace_id}/score")
    yield from map(http.get, ("/api/datasets/d-v1", "/api/datasets/d-v1/export.jsonl", "/metrics"))
    yield from map(http.delete, (f"/api/traces/{trace_id}", "/api/datasets/d-v1"))


def raising(error: Exception) -> Callable[..., Any]:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


def torn_manifest(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    path = artifacts / "datasets" / "d-v1" / "manifest.json"
    path.write_bytes(path.read_bytes()[:200])


def other_manifest(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    path = artifacts / "datasets" / "d-v1" / "manifest.json"
    path.write_text(path.read_text().replace("d-v1", "d-v9"))


def edited_shard(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    (shard,) = artifacts.rglob("traces-*.jsonl")
    shard.write_bytes(shard.read_bytes().replace(b"add one", b"add two"))


def row_that_is_none(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    (shard,) = artifacts.rglob("traces-*.jsonl")
    shard.write_bytes(b"{}\n" + shard.read_bytes()[3:])


def missing_shard(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    (shard,) = artifacts.rglob("traces-*.jsonl")
    shard.unlink()


def missing_artifacts(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(artifacts)


def artifacts_are_a_file(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(artifacts)
    artifacts.write_text("no folder")


def full_artifacts(artifacts: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(artifacts))
    patch.setattr(os, "fsync", raising(no_space))


def readonly_artifacts(artifacts: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
    # chmod would have no effect if the tests run as root.
    denied = PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(artifacts))
    patch.setattr(Path, "mkdir", raising(denied))


def refused_reads(artifacts: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
    error = PermissionDenied(f"{artifacts}: cannot be read")
    for name in ("read", "exists", "list_files", "size_bytes", "iter_blocks"):
        patch.setattr(storage_files, name, raising(error))


def database_is_a_folder(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.mkdir()


def database_is_text(artifacts: Path, database: Path, _: pytest.MonkeyPatch) -> None:
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.write_bytes(b"no longer a database" * 1000)


def patched(error: type[Exception]) -> Break:
    def broken(artifacts: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
        said = raising(error(f"{artifacts} {database} secret-word"))
        for name in ("insert_batch", "get", "list", "delete", "ping", "selection"):
            patch.setattr(Database, name, said)
        for table in (Labels, Scores):
            patch.setattr(table, "add", said)
        for name in ("find_manifest", "list_manifest_keys", "delete_dataset"):
            patch.setattr(read, name, said)

    return broken


# Each row is a failure and the worst status that it may cause.
OF_FILES: list[tuple[Break, int]] = [
    (torn_manifest, 500),
    (other_manifest, 500),
    (edited_shard, 500),
    (row_that_is_none, 500),
    (missing_shard, 500),
    (missing_artifacts, 404),
    (artifacts_are_a_file, 503),
    (full_artifacts, 503),
    (readonly_artifacts, 503),
    (refused_reads, 503),
]
OF_A_DATABASE_FILE: list[tuple[Break, int]] = [(database_is_a_folder, 503), (database_is_text, 503)]
PATCHED: list[tuple[type[Exception], int]] = [
    (RuntimeError, 500),
    (OSError, 500),
    (SpecError, 503),
    (Transient, 503),
    (Unavailable, 503),
]


def check_replies(
    http: TestClient, trace_id: str, trace: dict[str, Any], worst: int, secrets: list[str]
) -> None:
    statuses = set()
    for reply in ask_everything(http, trace_id, trace):
        statuses.add(reply.status_code)
        said = reply.text + str(reply.headers)
        for word in ("Traceback", 'File "', "sqlite", "secret-word", *secrets):
            assert word not in said, (word, reply.request.url, said)
        if reply.status_code >= 400 and reply.request.url.path != "/readyz":
            assert isinstance(reply.json()["detail"], str | list)
    assert max(statuses) == worst, statuses


@pytest.mark.parametrize(
    ("damage", "worst"), OF_FILES, ids=lambda one: getattr(one, "__name__", one)
)
def test_damaged_artifacts(
    http: TestClient,
    trace_id: str,
    make_trace: Make,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Break,
    worst: int,
) -> None:
    damage(artifacts, tmp_path, monkeypatch)
    caplog.set_level(logging.WARNING)
    check_replies(http, trace_id, make_trace(), worst, [str(tmp_path), str(artifacts)])
    if worst >= 500:  # The store's log names the file.
        assert str(artifacts) in caplog.text or "datasets/d-v1: traces-00000" in caplog.text


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "worst"), OF_A_DATABASE_FILE, ids=lambda one: getattr(one, "__name__", one)
)
def test_a_damaged_database_file(
    http: TestClient,
    trace_id: str,
    make_trace: Make,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Break,
    worst: int,
) -> None:
    path = Path(database.place)
    database.close()
    damage(tmp_path, path, monkeypatch)
    check_replies(http, trace_id, make_trace(), worst, [str(tmp_path), path.name])
    assert str(path) in caplog.text


@pytest.mark.parametrize(("error", "worst"), PATCHED)
def test_errors_of_every_kind(
    http: TestClient,
    trace_id: str,
    make_trace: Make,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    worst: int,
) -> None:
    patched(error)(artifacts, tmp_path / "store.db", monkeypatch)
    check_replies(http, trace_id, make_trace(), worst, [str(tmp_path), error.__name__])


def test_readiness_says_no_more(
    http: TestClient, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(Unavailable)(artifacts, tmp_path / "store.db", monkeypatch)
    refused_reads(artifacts, tmp_path, monkeypatch)
    reply = http.get("/readyz")
    assert (reply.status_code, reply.json()) == (
        503,
        {"status": "not ready", "database": "unavailable", "artifacts": "unavailable"},
    )
