"""Requests that tests send to the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

Make = Callable[..., dict[str, Any]]
"""Type of the fixture `make_trace`."""
BATCH = "/api/traces/batch"
BUILD = "/api/datasets/build"


def post_raw(http: TestClient, body: bytes, path: str = BATCH, **headers: str) -> Any:
    sent = {"content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(path, content=body, headers=sent)


def build(http: TestClient, **fields: Any) -> Any:
    return http.post(BUILD, json={"dataset_name": "d", "dataset_version": "v1", **fields})
