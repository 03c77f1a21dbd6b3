"""Process groups of the train stage on loopback, as a JobSet starts them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import numpy as safetensors_numpy

from tests.builders import METHODS, REPOSITORY, TinyRun, make_tiny_run
from tests.objectstore import ObjectStore
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.stages import TrainStage, dump_stage_spec
from tuneloop.specs.training.method import MethodSpec
from tuneloop.training.sft.metrics import MEASURED

EXPORT_AND_TRAIN = 2


def make_alone(folder: Path) -> None:
    """Run export and train with one process on one device."""
    run = make_tiny_run(folder).change(
        export__validation_fraction=0.2,
        train__validation={"every_steps": 5, "keep": "last"},
    )
    plan = run.plan()
    run_plan(replace(plan, stages=plan.stages[:EXPORT_AND_TRAIN]))


def method_named(kind: str) -> MethodSpec:
    return TypeAdapter[MethodSpec](MethodSpec).validate_python({"kind": kind, **METHODS[kind]})


def group_environment(count: int) -> list[dict[str, str]]:
    """Return the environment of each process of a group, with a free port for the first one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = {**os.environ, "TUNELOOP_PROCESSES": str(count), "TUNELOOP_COORDINATOR": address}
    return [{**shared, "TUNELOOP_PROCESS_ID": str(index)} for index in range(count)]


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

    def start(
        self, count: int, other_spec: Path | None = None, **env: str
    ) -> list[subprocess.Popen[str]]:
        """Start the processes, as a JobSet starts its pods.

        Args:
            count: number of processes.
            other_spec: spec of the last process; None gives it the one of the others.
            env: environment variables that they have in addition.
        """
        specs = [self.spec] * (count - 1) + [other_spec or self.spec]
        own = {**env, **(self.bucket.environment if self.bucket else {})}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "jobs", "train", "--spec", str(spec)],
                cwd=REPOSITORY,
                env={**environment, **own},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for spec, environment in zip(specs, group_environment(count), strict=True)
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

    def kill(self, index: int) -> None:
        """Kill one process and wait for its end."""
        self.processes[index].kill()
        self.processes[index].wait()

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


def metrics(artifacts: str, record: Record) -> list[dict[str, Any]]:
    data = records.read_output(record.output("metrics.jsonl"), artifacts)
    return [json.loads(line) for line in data.splitlines()]


def weights(artifacts: str, record: Record, name: str) -> dict[str, np.ndarray]:
    data = records.read_output(record.output(name), artifacts)
    return safetensors_numpy.load(data)


def losses_of(group: Training) -> list[float]:
    record = group.record()
    assert record is not None, group.logs()
    return [row["loss"] for row in metrics(group.artifacts, record)]


def result(group: Training) -> dict[str, Any]:
    """Losses, digests of the models and of all files; equal only if every bit is equal."""
    record = group.record()
    assert record is not None, group.logs()
    rows = metrics(group.artifacts, record)
    kept = [{name: row[name] for name in row if name not in MEASURED} for row in rows]
    files = {file.name: file.sha256 for file in record.outputs if not file.has_timings}
    return {"metrics": kept, "files": files, **record.results}
