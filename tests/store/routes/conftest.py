"""A store with a dataset."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, build


@pytest.fixture
def dataset(http: TestClient, make_trace: Make) -> str:
    http.post(BATCH, json=[make_trace(n) for n in range(5)])
    return str(build(http).json()["dataset_key"])
