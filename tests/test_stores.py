"""The whole loop with artifacts on GCS and S3, killed in training: the bytes of a local run.

As in a pod, the root file system is read-only, and TMPDIR is small.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import METHODS, TinyRun, make_tiny_run
from tests.objectstore import STORES, ObjectStore
from tests.test_kill import contents, fresh_store, stage_process
from tuneloop.runs import store_app
from tuneloop.runs.local import run_plan
from tuneloop.stages.lifecycle.command import shared_cache_env

__all__ = ["fresh_store"]

POD = """
mount -t tmpfs -o size=8m tmpfs "$TMPDIR"
mount -o remount,bind,ro /
exec "$@"
"""
"""Runs a command with these mounts, in a namespace of its own."""

KILLED_AT = {
    # Training has stored the checkpoint of step 20 and half of the next one.
    "gs": ("full", "checkpoints/30/", 20),
    # The files of step 30 are stored, its manifest is not.
    "s3": ("lora", "checkpoints/30/manifest.json", 20),
}
"""Protocol -> (method, upload at which training is killed, step from which it must resume)."""


def undisturbed_run(folder: Path, method: str) -> TinyRun:
    """Run the loop with local artifacts."""
    folder.mkdir()
    run = make_tiny_run(folder)
    run.change(train__method={"kind": method, **METHODS[method]})
    run.change(train__steps=50, execution__checkpoint_every_steps=10)
    with store_app.running(f"sqlite:///{folder / 'store.db'}", run.artifacts) as url:
        run_plan(run.change(execution__store_url=url).plan())
    return run


@pytest.fixture(params=sorted(STORES))
def bucket(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with STORES[request.param]() as found:
        yield found


def kill_training(command: list[str], env: dict[str, str], at: str, bucket: ObjectStore) -> str:
    """Run the loop and kill its train stage at an upload; returns what the loop printed."""
    with bucket.proxy.holding(at) as caught:
        runner = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        try:
            assert caught.wait(240), "training never reached the upload"
            victim = stage_process(runner.pid, "train")
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            _, said = runner.communicate(timeout=120)
        finally:
            runner.kill()
            runner.wait()
    assert runner.returncode == 20, said
    return said


def download(bucket: ObjectStore, folder: Path) -> None:
    for name in bucket.bucket.names():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.bucket.get(name))


def log_of(stage: Path) -> str:
    return (stage / "log.txt").read_text()


def test_killed_in_training_the_loop_ends_in_the_same_bytes(
    bucket: ObjectStore, tmp_path: Path, fresh_store: str
) -> None:
    method, at, resumed_from = KILLED_AT[bucket.proxy.protocol]
    undisturbed = undisturbed_run(tmp_path / "undisturbed", method)
    for file in Path(undisturbed.artifacts, "datasets").rglob("*"):
        if file.is_file():
            name = file.relative_to(undisturbed.artifacts)
            bucket.bucket.put(f"artifacts/{name}", file.read_bytes())
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [
        *("unshare", "--map-root-user", "--mount", "sh", "-ec", POD, "pod"),
        *(sys.executable, "-m", "tuneloop.cli", "run", str(undisturbed.spec_path)),
        *("--artifacts", bucket.url("artifacts"), "--store", fresh_store),
    ]
    cache = shared_cache_env(bucket.url("artifacts"))
    env = {**os.environ, **bucket.environment, **cache, "TMPDIR": str(folder)}
    assert "killed by SIGKILL" in kill_training(command, env, at, bucket)
    with bucket.proxy.failing(0.05, kinds=(503,)):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert bucket.proxy.faults[503] > 0

    download(bucket, tmp_path)
    run_id = undisturbed.plan().run_id
    train = tmp_path / "artifacts" / "training_runs" / run_id / "train"
    # The step was compiled by the process that was killed.
    (hits,) = re.findall(r"(\d+) programs were read from the compilation cache", log_of(train))
    assert int(hits) > 0
    record = train / "record.json"
    assert json.loads(record.read_bytes())["counts"]["resumed_from_step"] == resumed_from
    local = contents(Path(undisturbed.artifacts), run_id)
    assert contents(tmp_path / "artifacts", run_id) == local
    assert len(local["metrics"]) == 50
