"""The export on GCS and S3, one request in twenty failing: the same bytes, never a half."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import REPOSITORY
from tests.objectstore import STORES, ObjectStore
from tests.stages.test_export import MIXED, export, plan_of, record_of
from tuneloop.specs.stages import ExportStage, dump_stage_spec

OPTIONS: dict[str, Any] = {"shard_examples": 60, "validation_fraction": 0.2}
PROCESSES = 2
TRIES = 3
"""How often the cluster starts a pod again that ends with 75."""


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with STORES[request.param]() as found:
        yield found


def run_stage(store: ObjectStore, spec: Path, index: int) -> None:
    command = [sys.executable, "-m", "jobs", "export", "--spec", str(spec)]
    command += ["--index", str(index), "--count", str(PROCESSES)]
    for _ in range(TRIES):
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **store.environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        if done.returncode != 75:
            break
    assert done.returncode == 0, done.stderr


def check_records(store: ObjectStore) -> int:
    """Whatever has a final name is whole, and so is all that it names; returns how many records."""
    found = 0
    for name in store.bucket.names():
        if "/attempts/" not in name and name.endswith(".json") and "record" in name:
            record = json.loads(store.bucket.get(name))
            found += 1
            for file in record["outputs"]:
                data = store.bucket.get(f"artifacts/{file['path']}")
                assert len(data) == file["size_bytes"]
                assert hashlib.sha256(data).hexdigest() == file["sha256"]
    return found


def test_the_bytes_are_those_of_a_local_disk(tmp_path: Path, store: ObjectStore) -> None:
    local = plan_of(tmp_path, MIXED, **OPTIONS)
    assert export(local, tmp_path) == 0
    expected = record_of(local)
    datasets = Path(local.execution.artifacts) / "datasets"
    for file in datasets.rglob("*"):
        if file.is_file():
            name = file.relative_to(local.execution.artifacts)
            store.bucket.put(f"artifacts/{name}", file.read_bytes())
    there = local.execution.model_copy(update={"artifacts": store.url("artifacts")})
    remote: ExportStage = local.model_copy(update={"execution": there})
    spec = tmp_path / "remote.json"
    spec.write_bytes(dump_stage_spec(remote))

    done, wrong, seen = threading.Event(), [], []

    def watch() -> None:
        while not done.wait(0.3):
            try:
                seen.append(check_records(store))
            except Exception as e:
                wrong.append(e)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with store.proxy.failing(0.05):
            for index in range(PROCESSES):
                run_stage(store, spec, index)
        faults = store.proxy.faults.total()
    finally:
        done.set()
        watcher.join()
    assert wrong == []
    assert seen
    assert faults >= 3, f"of {store.proxy.requests} requests"
    key = f"artifacts/training_runs/{remote.run_id}/export/record.json"
    record = json.loads(store.bucket.get(key))
    assert check_records(store) >= 1
    content = {file["name"]: file["sha256"] for file in record["outputs"]}
    assert content == {file.name: file.sha256 for file in expected.outputs}
    assert record["counts"] == expected.counts
