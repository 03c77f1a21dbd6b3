"""Take over a stage result that exists already, and copy files for people."""

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
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths


def adopt(cached: Record, run_id: str, artifacts: str) -> Record:
    """Make another run's record this run's own: same outputs, no work."""
    return publish(cached.model_copy(update={"run_id": run_id}), artifacts)


def find_or_adopt(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record | None:
    """The stage's record if there is nothing left to do: its own, or another run's taken over.

    Completes what a kill right behind the record may have left out: cache pointer and copies.
    """
    record = find(artifacts, run_id, stage)
    if record is not None:
        check_fingerprint(record, fingerprint, record_url(artifacts, run_id, stage))
        point(record, artifacts)
    elif cached := find_cached(artifacts, fingerprint):
        log.info("stage %s: taking over the record of run %s", stage, cached.run_id)
        record = adopt(cached, run_id, artifacts)
    if record is not None:
        copy_for_people(record, artifacts)
    return record


def find_finished(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record | None:
    """Return the record that `find_or_adopt` would return, without writing anything."""
    record = find(artifacts, run_id, stage)
    if record is None:
        return find_cached(artifacts, fingerprint)
    check_fingerprint(record, fingerprint, record_url(artifacts, run_id, stage))
    return record


def copy_for_people(record: Record, artifacts: str) -> None:
    """Copy the files that people open to the run's folder; nothing ever reads them there."""
    row = STAGES.get(record.stage)
    names = row.copies if row else ()
    for file in (file for file in record.outputs if file.name in names):
        url = paths.join(run_prefix(artifacts, record.run_id), file.name)
        if files.size_bytes(url) != file.size_bytes:
            files.write(url, read_output(file, artifacts))
