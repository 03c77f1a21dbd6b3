"""Fixtures of a store on an empty database, in process and over a real socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tuneloop.datasets.schema import trace_record
from tuneloop.store.app import create_app
from tuneloop.store.catalog import Catalog
from tuneloop.store.db.database import Database
from tuneloop.store.server import uvicorn_server

CATALOG = Catalog(
    ("trace_sft_v1", "policy_only_v1"),
    {"trace": trace_record, "ids": lambda row, _: {"id": row.id}},
)


@contextlib.contextmanager
def serving(app: FastAPI, trusted_proxies: Sequence[str] = ()) -> Iterator[str]:
    """Serve an application on a free port while the block runs; yields its URL."""
    server = uvicorn_server(app, "error", trusted_proxies)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def make_trace() -> Callable[..., dict[str, Any]]:
    """Build a small valid trace; keywords replace its fields."""

    def make(number: int = 0, **fields: Any) -> dict[str, Any]:
        trace = {
            "trace_version": "1.0",
            "prompt": f"What is {number} + 1?",
            "final_answer": str(number + 1),
            "steps": [{"i": 0, "type": "reason", "content": "add one"}],
            "meta": {"number": number},
        }
        return {**trace, **fields}

    return make


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Folder for datasets, created by the first one."""
    return tmp_path / "artifacts"


@pytest.fixture
def app(database: Database, artifacts: Path) -> FastAPI:
    """The application on the empty store."""
    return create_app(database, str(artifacts), CATALOG, new_seed=lambda: 7)


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    """A client without a socket; an unexpected error of the application is raised in the test."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def store_url(app: FastAPI) -> Iterator[str]:
    """The application behind its server on loopback."""
    with serving(app) as url:
        yield url
