"""The same on GCS and S3, counted in requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.history.trees import heartbeat, put, write_manifest, write_run
from tests.objectstore import STORES, ObjectStore, used_by_this_process
from tuneloop.artifacts import layout
from tuneloop.history.deletion import delete_run, plan_deletion
from tuneloop.history.garbage import KINDS, collect, find_garbage, run_gc
from tuneloop.history.inventory import read_inventory
from tuneloop.history.listing import list_runs
from tuneloop.storage import files
from tuneloop.storage.objects import storage_time

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
RUNS = 20


@pytest.fixture(scope="module", params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with used_by_this_process(request.param) as found:
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


def test_delete_and_collect(store: ObjectStore) -> None:
    """The times are those of the server; odd characters of names are no patterns."""
    root = store.url("deleted")
    write_run(root, "a[b]*?")
    write_run(root, "ab")
    write_run(root, "uses", ["export"], like={"export": "a[b]*?"})
    put(root, "training_runs/ab/train/resume/checkpoints/5/manifest.json")
    now = datetime.now(UTC)
    inventory = read_inventory(root)
    assert all(each.modified for each in inventory.objects)
    plan = plan_deletion(inventory, "a[b]*?")
    assert [each.name for each in plan.references] == ["uses"]
    with store.proxy.failing(0.05, seed=2):
        delete_run(inventory, plan)
    left = {name.removeprefix("deleted/") for name in store.bucket.names() if "deleted/" in name}
    kept = {name for name in left if "a[b]*?" in name}
    assert kept == {each.name for each in plan.kept}
    assert "training_runs/ab/train/record.json" in left
    time = storage_time(root)
    assert time is not None
    assert abs(time - now) < timedelta(minutes=5)
    assert run_gc(root, now=now, days=1, kinds=KINDS) == []
    later = now + timedelta(days=2)
    assert run_gc(root, now=later, days=1, kinds=KINDS) == []  # the server says: it is not later
    garbage = find_garbage(read_inventory(root), now=later, days=1, kinds=KINDS)
    assert [each.path for each in garbage] == ["training_runs/ab/train/resume"]
    collect(read_inventory(root), garbage)
    left = {name.removeprefix("deleted/") for name in store.bucket.names() if "deleted/" in name}
    assert not any("resume" in name for name in left)
    assert "training_runs/ab/train/record.json" in left
