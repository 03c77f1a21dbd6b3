"""Reuse a stage result that exists already, and copy its main files to the folder of the run."""

from __future__ import annotations

from tuneloop.artifacts.layout import record_url, run_prefix
from tuneloop.artifacts.records import (
    Record,
    check_fingerprint,
    find,
    find_cached,
    log,
    point,
    publish,
    read_output,
)
from tuneloop.errors import DataError
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths


def adopt(cached: Record, run_id: str, artifacts: str) -> Record:
    """Publish another run's record as this run's: same outputs, no work."""
    return publish(cached.model_copy(update={"run_id": run_id}), artifacts)


def find_or_adopt(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record | None:
    """Return the record of a finished stage: its own, or another run's, which is adopted.

    Also writes the cache pointer and the copies, which a kill right after the record may have
    prevented. Returns None if the stage still has work to do.
    """
    record = find(artifacts, run_id, stage)
    if record is not None:
        check_fingerprint(record, fingerprint, record_url(artifacts, run_id, stage))
        point(record, artifacts)
    elif cached := find_cached(artifacts, fingerprint, stage):
        log.info("stage %s: reusing the record of run %s", stage, cached.run_id)
        record = adopt(cached, run_id, artifacts)
    if record is not None:
        copy_to_run_folder(record, artifacts)
    return record


def find_finished(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record | None:
    """Return the record that `find_or_adopt` would return, without writing anything."""
    record = find(artifacts, run_id, stage)
    if record is None:
        return find_cached(artifacts, fingerprint, stage)
    check_fingerprint(record, fingerprint, record_url(artifacts, run_id, stage))
    return record


def repair_copies(record: Record, artifacts: str, limit_bytes: int | None) -> None:
    """Write a copy for people again if its content is not that of the output.

    Args:
        record: record of the stage.
        artifacts: URL of the artifacts prefix.
        limit_bytes: largest file to compare; None compares all.
    """
    row = STAGES.get(record.stage)
    for file in (each for each in record.outputs if row and each.name in row.copies):
        url = paths.join(run_prefix(artifacts, record.run_id), file.name)
        if limit_bytes is not None and file.size_bytes > limit_bytes:
            continue
        try:
            files.read_verified(url, expected_bytes=file.size_bytes, expected_sha256=file.sha256)
        except DataError as e:
            log.warning("%s; copying it again", e)
            files.write(url, read_output(file, artifacts))


def copy_to_run_folder(record: Record, artifacts: str) -> None:
    """Copy the outputs that users open to the folder of the run; no stage reads the copies."""
    row = STAGES.get(record.stage)
    names = row.copies if row else ()
    for file in (file for file in record.outputs if file.name in names):
        url = paths.join(run_prefix(artifacts, record.run_id), file.name)
        if files.size_bytes(url) != file.size_bytes:
            files.write(url, read_output(file, artifacts))
