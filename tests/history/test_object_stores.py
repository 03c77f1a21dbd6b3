"""The same on GCS and S3, counted in requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.history.trees import STARTED, heartbeat, put, write_manifest, write_run
from tests.objectstore import STORES, ObjectStore, used_by_this_process
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_index import IndexedStage, write_run_index
from tuneloop.errors import PermissionDenied
from tuneloop.history.deletion import delete_run, plan_deletion
from tuneloop.history.garbage import KINDS, collect, find_garbage, run_gc
from tuneloop.history.index import build_index
from tuneloop.history.inventory import read_inventory
from tuneloop.history.listing import ListedRun, list_runs
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files
from tuneloop.storage.objects import storage_time

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
RUNS = 8


@pytest.fixture(scope="module", params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with used_by_this_process(request.param) as found:
        yield found


def test_a_list_of_finished_runs_needs_a_few_requests(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = store.url("listed")
    now = datetime.now(UTC)
    for number in range(RUNS):
        write_run(root, f"ünïcode {number:03d}")
    write_manifest(root, "runs")
    heartbeat(root, "runs", "export", now)
    first = list_runs(root, now=now)
    assert len(first) == RUNS + 1
    assert first[0].state == "export running"
    assert requests(store, root, first) > RUNS  # reads the indexes and writes the cache
    few = requests(store, root, first)
    # gcsfs also looks for an object with the name of an empty folder, here of sweeps and rounds.
    assert few <= 18, "four listings, the cache, and the rest for the unfinished run"
    with store.proxy.failing(0.05, seed=1):
        assert list_runs(root, now=now) == first
    # A replaced index is read again, and so is one that another process has repaired.
    store.bucket.put("listed/run_index/ünïcode 000.json", b"\xef\xbb\xbf{")
    assert requests(store, root, first) > few
    assert files.read(layout.run_index_url(root, "ünïcode 000")).startswith(b'{"')
    assert requests(store, root, first) <= few + 4
    cache = files.read(layout.run_index_cache_url(root))
    for broken in (b"", cache[: len(cache) // 2]):
        store.bucket.put("listed/run_index_cache.json", broken)
        assert list_runs(root, now=now) == first
        assert files.read(layout.run_index_cache_url(root)) == cache
    files.delete_tree(layout.run_prefix(root, "ünïcode 001"))
    assert len(list_runs(root, now=now)) == len(first) - 1
    assert not list(tmp_path.iterdir()), "the shared cache could be written"


def requests(store: ObjectStore, root: str, expected: list[ListedRun]) -> int:
    """List the runs, and return the number of requests."""
    store.proxy.requests = 0
    assert list_runs(root, now=datetime.now(UTC)) == expected
    return store.proxy.requests


def test_a_cache_that_lies_is_not_believed(store: ObjectStore) -> None:
    """Wrong stamps, swapped runs, or a run that was deleted and made again."""
    root, now = store.url("lies"), datetime.now(UTC)
    for run_id in ("a-1", "b-2"):
        write_run(root, run_id)
    list_runs(root, now=now)
    first = list_runs(root, now=now)
    url = layout.run_index_cache_url(root)
    value = json.loads(files.read(url))
    del value["seal"]  # damage is not what is tested here
    runs = value["runs"]
    half = {**runs["a-1"]["index"], "finished": []}
    for wrong in (
        {run_id: {**each, "stamp": ""} for run_id, each in runs.items()},
        {"a-1": runs["b-2"], "b-2": runs["a-1"]},
        {"a-1": {**runs["a-1"], "index": half}},
        {"a-1": {**runs["a-1"], "index": {**runs["a-1"]["index"], "run_id": "b-2"}}},
    ):
        files.write(url, json.dumps({**value, "runs": wrong}).encode())
        assert list_runs(root, now=now) == first
    plan = plan_deletion(read_inventory(root), "a-1")
    delete_run(read_inventory(root), plan)
    write_run(root, "a-1", ["export"])
    states = {run.run_id: run.state for run in list_runs(root, now=now)}
    assert states == {"a-1": "train not started", "b-2": "finished"}


def test_a_reader_who_may_not_write_keeps_a_cache_at_home(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, now, write = store.url("reads"), datetime.now(UTC), files.write
    for number in range(RUNS):
        write_manifest(root, f"a-{number}", like={stage: "a" for stage in TRAINING_STAGES})
    index = build_index(write_run(root, "a"), [])
    done = [
        IndexedStage(name=x, reused=False, started_at=STARTED, seconds=1) for x in index.planned
    ]
    for run_id in ("a", *(f"a-{number}" for number in range(RUNS))):
        full = index.model_copy(update={"run_id": run_id, "finished": tuple(done)})
        write_run_index(full, root)

    def refuse(url: str, data: bytes) -> None:
        if url.startswith(root):
            raise PermissionDenied(f"{url}: 403")
        write(url, data)

    monkeypatch.setattr(files, "write", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = list_runs(root, now=now)
    (file,) = (tmp_path / "cache" / "tuneloop").iterdir()
    assert requests(store, root, first) <= 8
    file.write_bytes(b"{")
    assert list_runs(root, now=now) == first
    assert requests(store, root, first) <= 8
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")  # nor can this one be written
    assert requests(store, root, first) > RUNS


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
