"""Build the index of a run from its manifest and records, and keep it up to date."""

from __future__ import annotations

import contextlib
import math

from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_index import IndexedStage, RunIndex, write_run_index
from tuneloop.artifacts.runs.run_manifest import RunManifest, read_run_manifest
from tuneloop.errors import DataError, TuneloopError
from tuneloop.history.stored import is_own, manifest_problem, read_record, stage_names


def build_index(manifest: RunManifest, finished: list[Record]) -> RunIndex:
    """Build the index of a run.

    Args:
        manifest: manifest of the run.
        finished: records of the stages before the first one without a record, in order.
    """
    model = manifest.model
    index = RunIndex(
        run_id=manifest.run_id,
        name=str(manifest.spec.get("name") or manifest.run_id.rpartition("-")[0]),
        dataset=manifest.dataset.key if manifest.dataset else "",
        model="" if model is None else model.name or f"random {model.family}".strip(),
        planned=tuple(name for name in stage_names(manifest) if name in manifest.stages),
        finished=(),
    )
    return extend_index(index, finished)


def extend_index(index: RunIndex, finished: list[Record]) -> RunIndex:
    """Return an index with the records of further stages, in order."""
    stages = tuple(
        IndexedStage(
            name=record.stage,
            reused=not is_own(record),
            started_at=record.started_at,
            seconds=record.seconds if math.isfinite(record.seconds) else 0.0,
        )
        for record in finished
    )
    accuracies = {
        name: value
        for record in finished
        for name in ("accuracy_base", "accuracy_tuned")
        if isinstance(value := record.results.get(name), float) and math.isfinite(value)
    }
    return index.model_copy(update={"finished": index.finished + stages, **accuracies})


def read_index(artifacts: str, run_id: str) -> RunIndex | None:
    """Build the index of a run from its files; None if there is no such run.

    Raises:
        DataError: the manifest or a record is broken.
    """
    manifest = read_run_manifest(artifacts, run_id)
    if manifest is None:
        return None
    if problem := manifest_problem(manifest, run_id):
        raise DataError(f"run {run_id}: {problem} Restore the file.")
    return read_further(artifacts, build_index(manifest, []))


def read_further(artifacts: str, index: RunIndex) -> RunIndex:
    """Return an index with the stages that have finished since it was written.

    Raises:
        DataError: a record is broken.
    """
    found: list[Record] = []
    for stage in index.planned[len(index.finished) :]:
        record = read_record(artifacts, index.run_id, stage)
        if record is None:
            break
        found.append(record)
    return extend_index(index, found) if found else index


def update_index(artifacts: str, run_id: str) -> None:
    """Write the index of a run after a stage has ended.

    Nothing is raised: lists build an index that is missing, and a finished stage stays finished.
    """
    with contextlib.suppress(TuneloopError):
        index = read_index(artifacts, run_id)
        if index is not None:
            write_run_index(index, artifacts)
