"""Training with several processes or devices: same losses, checkpoints and signals as with one."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from safetensors import numpy as safetensors_numpy

from tests.builders import METHODS, REPOSITORY, TinyRun, make_tiny_run, steps_done
from tests.cluster.controlplane import wait_until
from tests.objectstore import STORES, ObjectStore
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.runs.local import run_plan
from tuneloop.runs.plan import Plan
from tuneloop.specs.mesh import MeshSpec
from tuneloop.specs.method import MethodSpec
from tuneloop.specs.stages import TrainStage, dump_stage_spec
from tuneloop.training.sft.metrics import MEASURED

EXPORT_AND_TRAIN = 2


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Plan]:
    """The run with one process on one device."""
    run = make_tiny_run(tmp_path_factory.mktemp("alone")).change(
        export__validation_fraction=0.2,
        train__validation={"every_steps": 5, "keep": "last"},
    )
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:EXPORT_AND_TRAIN]))
    return run, plan


class Training:
    """A copy of the run without its train stage, which a process group then runs."""

    def __init__(
        self,
        alone: tuple[TinyRun, Plan],
        folder: Path,
        bucket: ObjectStore | None = None,
        checkpoint_every_steps: int = 4,
        **options: Any,
    ) -> None:
        run, plan = alone
        self.bucket = bucket
        self.artifacts = str(folder / "artifacts")
        shutil.copytree(run.artifacts, self.artifacts)
        stage = plan.stages[1]
        assert isinstance(stage, TrainStage)
        self.run_id, self.folder = plan.run_id, folder
        self.prefix = Path(layout.stage_prefix(self.artifacts, plan.run_id, "train"))
        shutil.rmtree(self.prefix)
        shutil.rmtree(Path(self.artifacts) / "tokens")
        Path(layout.pointer_url(self.artifacts, stage.fingerprint)).unlink()
        url = upload(Path(self.artifacts), bucket) if bucket else self.artifacts
        execution = stage.execution.model_copy(
            update={"artifacts": url, "checkpoint_every_steps": checkpoint_every_steps}
        )
        changed = stage.options.model_copy(update=options)
        spec = stage.model_copy(update={"execution": execution, "options": changed})
        self.spec = folder / "train.json"
        self.spec.write_bytes(dump_stage_spec(spec))
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, count: int, **env: str) -> list[subprocess.Popen[str]]:
        """Start the processes, as a JobSet starts its pods."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        shared = {"TUNELOOP_PROCESSES": str(count), "TUNELOOP_COORDINATOR": address}
        shared |= self.bucket.environment if self.bucket else {}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "jobs", "train", "--spec", str(self.spec)],
                cwd=REPOSITORY,
                env={**os.environ, **env, **shared, "TUNELOOP_PROCESS_ID": str(process_index)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process_index in range(count)
        ]
        return self.processes

    def end(self, seconds: float = 300) -> list[int]:
        """Wait for all processes; returns their exit codes."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            _, said = process.communicate(timeout=deadline - time.monotonic())
            (self.folder / f"{process.pid}.log").write_text(said)
        return [process.returncode for process in self.processes]

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))

    def record(self) -> Record | None:
        if self.bucket:
            download(self.bucket, Path(self.artifacts))
        return records.find(self.artifacts, self.run_id, "train")


def upload(folder: Path, bucket: ObjectStore) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.bucket.put(f"artifacts/{file.relative_to(folder)}", file.read_bytes())
    return bucket.url("artifacts")


def download(bucket: ObjectStore, folder: Path) -> None:
    for name in bucket.bucket.names():
        path = folder / name.removeprefix("artifacts/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.bucket.get(name))


@pytest.fixture
def training(alone: tuple[TinyRun, Plan], tmp_path: Path) -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def make(**options: Any) -> Training:
        made.append(Training(alone, tmp_path / f"group-{len(made)}", **options))
        return made[-1]

    yield make
    for each in made:
        for process in each.processes:
            process.kill()
            process.communicate()


def metrics(artifacts: str, record: Record) -> list[dict[str, Any]]:
    data = records.read_output(record.output("metrics.jsonl"), artifacts)
    return [json.loads(line) for line in data.splitlines()]


def weights(artifacts: str, record: Record, name: str) -> dict[str, np.ndarray]:
    data = records.read_output(record.output(name), artifacts)
    return safetensors_numpy.load(data)


def assert_same_training(alone: tuple[TinyRun, Plan], found: Training) -> None:
    run, plan = alone
    one, other = records.find(run.artifacts, plan.run_id, "train"), found.record()
    assert one is not None
    assert other is not None, found.logs()
    losses = [
        [row.get(name) or 0 for row in metrics(a, r) for name in ("loss", "validation_loss")]
        for a, r in ((run.artifacts, one), (found.artifacts, other))
    ]
    assert len(losses[0]) == 2 * 13  # 12 steps, and the validation before them
    assert sum(loss > 0 for loss in losses[0]) == 12 + 4
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    base = "base/model.safetensors"
    assert one.output(base).sha256 == other.output(base).sha256
    tuned = "model/model.safetensors"
    expected, got = weights(run.artifacts, one, tuned), weights(found.artifacts, other, tuned)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=2e-3, err_msg=name)


def test_two_processes_train_as_one_does(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    group = training()
    group.start(2)
    assert group.end() == [0, 0], group.logs()
    assert_same_training(alone, group)
    assert len(list((group.prefix / "attempts").iterdir())) == 1  # Only one process wrote.
    token_files = [Path(each) / "tokens" for each in (alone[0].artifacts, group.artifacts)]
    assert len({tuple(sorted(os.listdir(each))) for each in token_files}) == 1
    group.start(2)  # This is a restart after the record exists.
    assert group.end(30) == [0, 0]


def test_an_example_over_the_limit_ends_both_processes(training: Callable[..., Training]) -> None:
    """The first process finds it, while the other one waits for the token file."""
    group = training(max_length_tokens=8)
    group.start(2)
    codes = group.end()
    assert codes[0] == 65
    assert codes[1] != 0
    assert "expected at most 8; raise train.max_length_tokens" in group.logs()


def test_a_process_with_two_devices_uses_both_for_each_part_of_a_batch(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    pair = training(accumulation_steps=2)
    pair.start(1, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert pair.end() == [0], pair.logs()
    assert_same_training(alone, pair)


@pytest.mark.parametrize("mesh", [{"data": 4}, {"fsdp": 4}, {"fsdp": 2, "tp": 2}])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_mesh_of_four_devices_trains_as_one_device_does(
    method: str, mesh: dict[str, int], training: Callable[..., Training], single: Callable[..., Any]
) -> None:
    group = training(mesh=MeshSpec(**mesh), method=method_named(method), **TWENTY)
    group.start(1, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert group.end() == [0], group.logs()
    np.testing.assert_allclose(losses_of(group), single(method), rtol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(training: Callable[..., Training]) -> None:
    odd = training(batch_size=7)
    odd.start(1, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert odd.end() == [78]
    assert "7 rows do not divide evenly among 2 devices; choose a multiple of 2" in odd.logs()


def test_asked_to_stop_all_stop_at_one_step_and_go_on_from_there(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    """Only the second process gets the signal."""
    group = training(steps=3000)
    processes = group.start(2)
    wait_until(lambda: steps_done(group.prefix), "it trains", 180)
    processes[1].send_signal(signal.SIGTERM)
    assert group.end() == [75, 75], group.logs()
    assert "saved; run again to continue" in group.logs()
    saved = [int(p.name) for p in (group.prefix / "resume" / "checkpoints").iterdir()]
    assert max(saved) > 0
    assert group.record() is None


TWENTY: dict[str, Any] = {"steps": 20, "validation": None}


def losses_of(group: Training) -> list[float]:
    record = group.record()
    assert record is not None, group.logs()
    return [row["loss"] for row in metrics(group.artifacts, record)]


@pytest.fixture(scope="module")
def single(
    alone: tuple[TinyRun, Plan], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[float]]:
    """A function that returns the losses of 20 steps on one device with a method."""

    @functools.cache
    def train(method: str) -> list[float]:
        folder = tmp_path_factory.mktemp(f"single-{method}")
        group = Training(alone, folder, method=method_named(method), **TWENTY)
        group.start(1)
        assert group.end() == [0], group.logs()
        return losses_of(group)

    return train


def kill_after(group: Training, step: int) -> None:
    """Kill all processes when the checkpoint of a step is complete and its metrics are stored."""
    resume = group.prefix / "resume"
    complete = resume / "checkpoints" / str(step) / "manifest.json"
    wait_until(complete.exists, f"step {step} is stored", 180)
    rows = resume / "metrics.jsonl"
    wait_until(lambda: rows.read_bytes().count(b"\n") >= step, "its metrics are stored")
    for process in group.processes:
        process.kill()
    group.end()


def test_a_run_goes_on_with_another_number_of_processes_and_devices(
    training: Callable[..., Training],
) -> None:
    """Each kind of weights is split in another way every time."""
    options: dict[str, Any] = {"steps": 60, "validation": None}
    undisturbed = training(**options)
    undisturbed.start(1)
    assert undisturbed.end() == [0], undisturbed.logs()
    moved = training(**options)
    moved.start(2)
    kill_after(moved, 8)
    moved.start(1)
    kill_after(moved, 24)
    moved.start(1, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert moved.end() == [0], moved.logs()
    np.testing.assert_allclose(losses_of(moved), losses_of(undisturbed), rtol=1e-5)
    record = moved.record()
    assert record is not None
    assert record.counts["resumed_from_step"] >= 24


LONG: dict[str, Any] = {"steps": 100, "checkpoint_every_steps": 10}


def method_named(kind: str) -> MethodSpec:
    return TypeAdapter[MethodSpec](MethodSpec).validate_python({"kind": kind, **METHODS[kind]})


@pytest.fixture(scope="module")
def undisturbed(
    alone: tuple[TinyRun, Plan], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], dict[str, Any]]:
    """A function that returns what some processes train in 100 steps with a method."""

    @functools.cache
    def train(method: str, processes: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(f"undisturbed-{method}-{processes}")
        group = Training(alone, folder, method=method_named(method), **LONG)
        group.start(processes)
        assert group.end() == [0] * processes, group.logs()
        return result(group)

    return train


def result(group: Training) -> dict[str, Any]:
    """Losses and digests of the models; equal only if every bit is equal."""
    record = group.record()
    assert record is not None, group.logs()
    rows = metrics(group.artifacts, record)
    kept = [{name: row[name] for name in row if name not in MEASURED} for row in rows]
    return {"metrics": kept, **record.results}


def kill_first_process_at_step_60(group: Training, count: int) -> None:
    """Kill one process when the checkpoint of step 50 is complete, on any store."""
    if group.bucket is None:
        processes = group.start(count)
        resume = group.prefix / "resume"
        complete = resume / "checkpoints" / "50" / "manifest.json"
        wait_until(complete.exists, "step 50 is stored", 180)
        rows = resume / "metrics.jsonl"  # written one step later
        wait_until(lambda: rows.read_bytes().count(b"\n") >= 50, "its metrics are stored")
        processes[0].kill()
        return
    with group.bucket.proxy.holding("checkpoints/60/") as caught:
        processes = group.start(count)
        assert caught.wait(180), group.logs()
        processes[0].kill()
        processes[0].wait()


# With one process, tests/test_kill.py and tests/test_stores.py kill the whole loop in other cases.
@pytest.mark.parametrize(
    ("method", "protocol", "count"),
    [
        *((method, protocol, 2) for method in METHODS for protocol in ("file", "gs", "s3")),
        ("full", "s3", 1),
        ("lora", "file", 1),
        ("lora", "gs", 1),
    ],
)
def test_killed_its_peers_end_and_the_next_group_continues_with_the_same_bits(
    method: str,
    protocol: str,
    count: int,
    undisturbed: Callable[[str, int], dict[str, Any]],
    training: Callable[..., Training],
) -> None:
    """If the first process is killed, the other one ends within seconds."""
    with STORES[protocol]() if protocol in STORES else nullcontext() as bucket:
        group = training(bucket=bucket, method=method_named(method), **LONG)
        kill_first_process_at_step_60(group, count)
        first, *others = group.end()
        assert first == -signal.SIGKILL
        assert set(others) <= {-signal.SIGABRT, 75, 70}, group.logs()
        group.start(count)
        assert group.end() == [0] * count, group.logs()
        assert result(group) == undisturbed(method, count)
        record = group.record()
    assert record is not None
    assert record.counts["resumed_from_step"] >= 50
