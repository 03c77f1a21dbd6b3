"""Write runs without running them: manifests, records, attempts, checkpoints and caches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.aliases import AliasChange, AliasedModel, publish_change
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, ModelOfRun, RunManifest
from tuneloop.artifacts.runs.run_manifest import write_run_manifest as publish_manifest
from tuneloop.stages.lifecycle import reuse
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files, paths

ATTEMPT = "20261122T112233-064c19"
OUTPUTS = {
    "export": ("examples-00000-of-00001.jsonl", "export_report.md"),
    "train": ("metrics.jsonl", "model/manifest.json", "model/model.safetensors"),
    "eval": ("eval_after.jsonl", "delta_report.json"),
    "import": (),
}
STARTED = "2026-11-22T11:22:33+00:00"


def fingerprint(seed: str, stage: str) -> str:
    return hashlib.sha256(f"{seed}/{stage}".encode()).hexdigest()


def write_run(
    artifacts: str,
    run_id: str,
    stages: Iterable[str] = TRAINING_STAGES,
    *,
    like: dict[str, str] | None = None,
    **manifest: Any,
) -> RunManifest:
    """Write a run: its manifest, and the records of some stages with their files.

    Args:
        artifacts: URL of the artifacts prefix.
        run_id: id of the run.
        stages: stages that have finished.
        like: stage -> the run that has the same fingerprint, so that its result is adopted.
        manifest: `train`, options of the spec's train section, and fields of the manifest.
    """
    made = write_manifest(artifacts, run_id, like=like, **manifest)
    for stage in stages:
        finish(artifacts, run_id, stage, made.stages[stage])
    return made


def write_manifest(
    artifacts: str,
    run_id: str,
    *,
    like: dict[str, str] | None = None,
    train: dict[str, Any] | None = None,
    dataset: str = "letters-v1",
    **fields: Any,
) -> RunManifest:
    made = RunManifest(
        run_id=run_id,
        spec={"name": run_id.rpartition("-")[0] or run_id, "train": train or {}},
        seed=1,
        dataset=DatasetOfRun(key=dataset, build_id="b", trace_count=3),
        **{"model": ModelOfRun(name=None, family="gemma3", random_weights=True), **fields},
        stages={
            stage: fingerprint((like or {}).get(stage, run_id), stage) for stage in TRAINING_STAGES
        },
    )
    publish_manifest(made, artifacts)
    return made


def finish(artifacts: str, run_id: str, stage: str, mark: str, **fields: Any) -> Record:
    """Let a stage finish; if a run has a result with the fingerprint, it is adopted."""
    found = reuse.find_or_adopt(artifacts, run_id, stage, mark)
    if found is not None:
        return found
    outputs = [write_output(artifacts, run_id, stage, name) for name in OUTPUTS[stage]]
    results = {"accuracy_base": 0.25, "accuracy_tuned": 0.75} if stage == "eval" else {}
    values: dict[str, Any] = {
        "run_id": run_id,
        "stage": stage,
        "fingerprint": mark,
        "attempt": ATTEMPT,
        "inputs": {},
        "outputs": tuple(outputs),
        "counts": {"steps": 50} if stage == "train" else {},
        "results": results,
        "started_at": STARTED,
        "seconds": 2.5,
        "provenance": {},
    }
    record = records.publish(Record.model_validate({**values, **fields}), artifacts)
    reuse.copy_to_run_folder(record, artifacts)
    return record


def write_output(artifacts: str, run_id: str, stage: str, name: str) -> OutputFile:
    path = f"training_runs/{run_id}/{stage}/attempts/{ATTEMPT}/{name}"
    data = f"{run_id} {stage} {name}\n".encode()
    files.write(paths.join(artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest)


def heartbeat(
    artifacts: str, run_id: str, stage: str, at: datetime, attempt: str = ATTEMPT, **values: Any
) -> None:
    """Write the heartbeat of a stage."""
    import json

    beat = {"stage": stage, "attempt": attempt, "updated_at": at.isoformat(), **values}
    url = paths.join(layout.stage_prefix(artifacts, run_id, stage), "progress.json")
    files.write(url, json.dumps(beat).encode())


def snapshot(artifacts: str) -> set[str]:
    """Return the names of all files below a local prefix."""
    root = Path(artifacts)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def set_age(artifacts: str, now: datetime, days: float, names: Iterable[str] | None = None) -> None:
    """Let all files below a local prefix, or some, be this old."""
    moment = now.timestamp() - days * 86400
    for name in snapshot(artifacts) if names is None else names:
        os.utime(Path(artifacts, name), (moment, moment))


def put(artifacts: str, *names: str) -> None:
    """Write files that contain their names."""
    for name in names:
        files.write(f"{artifacts}/{name}", name.encode())


def name_by_alias(root: str, *models: tuple[str, str]) -> None:
    """Write an alias `production` that has named these models, as (kind, name), in this order."""
    previous = None
    for number, (kind, name) in enumerate(models, start=1):
        model = AliasedModel(kind=kind, name=name, digest=name)
        change = AliasChange(
            alias="production",
            number=number,
            action="promote",
            model=model,
            previous=previous,
            gate=None,
            who="anna",
            why="",
            at="2026-11-28T21:30:00+00:00",
        )
        assert publish_change(change, root)
        previous = model
