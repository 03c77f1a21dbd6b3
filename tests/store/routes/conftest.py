"""Traces and a dataset for the tests of the endpoints."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, build


@pytest.fixture
def dataset(http: TestClient, make_trace: Make) -> str:
    http.post(BATCH, json=[make_trace(n) for n in range(5)])
    return str(build(http).json()["dataset_key"])


@pytest.fixture
def ids(http: TestClient, make_trace: Make) -> list[str]:
    """Store seven traces, oldest first; the odd ones come from `a`, the even ones from `b`."""
    traces = [make_trace(n, meta={"source": "ba"[n % 2], "number": n}) for n in range(7)]
    return [row["id"] for row in http.post(BATCH, json=traces).json()["traces"]]
