"""The same on GCS and S3, counted in requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import fsspec
import pytest

from tests.history.trees import heartbeat, write_manifest, write_run
from tests.objectstore import STORES, ObjectStore
from tuneloop.artifacts import layout
from tuneloop.history.listing import list_runs
from tuneloop.storage import files

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
RUNS = 20


@pytest.fixture(scope="module", params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with STORES[request.param]() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf, found.environment)
        yield found


def test_a_list_needs_one_request_per_finished_run(store: ObjectStore) -> None:
    root = store.url("listed")
    now = datetime.now(UTC)
    for number in range(RUNS):
        write_run(root, f"ünïcode {number:03d}")
    write_manifest(root, "runs")
    heartbeat(root, "runs", "export", now)
    first = list_runs(root, now=now)
    assert len(first) == RUNS + 1
    assert first[0].state == "export running"
    store.proxy.requests = 0
    assert list_runs(root, now=now) == first
    assert RUNS + 2 <= store.proxy.requests <= RUNS + 14  # the rest is for the unfinished run
    store.proxy.requests = 0
    with store.proxy.failing(0.05, seed=1):
        assert list_runs(root, now=now) == first
    store.bucket.put("listed/training_runs/ünïcode 000/index.json", b"\xef\xbb\xbf{")
    assert list_runs(root, now=now) == first
    assert files.read(layout.run_index_url(root, "ünïcode 000")).startswith(b'{"')
