"""What a stage did: the record, its place, publishing and loading it.

One rule: the record is written last, create-only; a prefix without one is unfinished and nobody
reads it. Success of a stage is a record that loads, never an exit code.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl, storage
from tuneloop.errors import DataError, InputMissing
from tuneloop.validation import first_error

log = logging.getLogger(__name__)

PEOPLE_COPIES = {
    "export": ("export_report.md", "lengths.svg"),
    "train": ("metrics.jsonl",),
    "eval": ("eval_before.jsonl", "eval_after.jsonl", "delta_report.md", "delta_report.json"),
}
"""Outputs that are also copied to the run's own folder, where people look."""


class OutputFile(BaseModel):
    """One file of a stage, by content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """What the next stage asks for, such as "examples-00000-of-00001.jsonl"."""
    path: str
    """Where it lies, relative to the artifacts prefix."""
    size_bytes: int
    sha256: str
    rows: int | None = None
    """Lines of a JSONL file."""
    has_timings: bool = False
    """Whether it holds wall times, so that two runs of one fingerprint differ in it."""


class Record(BaseModel):
    """What a stage did: inputs, outputs, counts, timings, provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    stage: str
    part: str | None = None
    """Which of several processes wrote it, such as "00003-of-00016"; None: the whole stage."""
    fingerprint: str
    attempt: str
    inputs: dict[str, str]
    """What was read: name -> sha256 of a file, or fingerprint of a stage."""
    outputs: tuple[OutputFile, ...]
    counts: dict[str, int]
    results: dict[str, Any] = {}
    """What the stage found out, such as losses and accuracies."""
    started_at: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the whole stage process until here."""
    provenance: dict[str, Any]

    def output(self, name: str) -> OutputFile:
        """The output of that name; DataError if the stage wrote none."""
        for file in self.outputs:
            if file.name == name:
                return file
        names = ", ".join(file.name for file in self.outputs)
        raise DataError(
            f"record of {self.run_id}/{self.stage}: found no output {name}, it has {names}; run"
            " the stage again with this version of tuneloop"
        )

    def outputs_like(self, prefix: str) -> tuple[OutputFile, ...]:
        """Outputs whose name begins so, in order of name."""
        return tuple(
            sorted((f for f in self.outputs if f.name.startswith(prefix)), key=lambda f: f.name)
        )

    def content(self) -> dict[str, str]:
        """Digests of the outputs that the fingerprint determines: name -> sha256."""
        return {file.name: file.sha256 for file in self.outputs if not file.has_timings}


def run_prefix(artifacts: str, run_id: str) -> str:
    """Where a run lies."""
    return storage.join(artifacts, "training_runs", run_id)


def stage_prefix(artifacts: str, run_id: str, stage: str) -> str:
    """Where a stage of a run lies."""
    return storage.join(run_prefix(artifacts, run_id), stage)


def part_name(index: int, count: int) -> str | None:
    """Names one of several processes that share a stage; None where one does it all."""
    return f"{index:05d}-of-{count:05d}" if count > 1 else None


def record_url(artifacts: str, run_id: str, stage: str, part: str | None = None) -> str:
    """Where the record of a stage, or of a part of it, lies once it has succeeded."""
    name = "record.json" if part is None else f"record-{part}.json"
    return storage.join(stage_prefix(artifacts, run_id, stage), name)


def pointer_url(artifacts: str, fingerprint: str) -> str:
    """Where the cache says which record first produced a fingerprint."""
    return storage.join(artifacts, "stages", f"{fingerprint}.json")


def publish(record: Record, artifacts: str) -> Record:
    """Commit a stage, or a part: write its record create-only, then the stage's cache pointer.

    Returns:
        The record that stands. If another attempt was first, that one: with the same content it
        is the same success, with other content the stage is not deterministic, which is logged.
    """
    url = record_url(artifacts, record.run_id, record.stage, record.part)
    if not storage.publish(url, _dump(record)):
        first = _parse(storage.read(url), url)
        if first.content() != record.content():
            log.error(
                "%s: attempt %s wrote other bytes than attempt %s for the same fingerprint;"
                " keeping the first, the stage is not deterministic on this hardware",
                url,
                record.attempt,
                first.attempt,
            )
        record = first
    if record.part is None:
        point(record, artifacts)
    return record


def point(record: Record, artifacts: str) -> None:
    """Enter a record in the cache, unless its fingerprint is there already."""
    pointer = {"record": f"training_runs/{record.run_id}/{record.stage}/record.json"}
    storage.publish(pointer_url(artifacts, record.fingerprint), jsonl.dump_line(pointer))


def find(artifacts: str, run_id: str, stage: str, part: str | None = None) -> Record | None:
    """The record of a stage, or of a part of it, if it has published one."""
    url = record_url(artifacts, run_id, stage, part)
    try:
        record = _parse(storage.read(url), url)
    except FileNotFoundError:
        return None
    _verify(record, artifacts, url)
    return record


def load(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record:
    """The record of an upstream stage.

    Raises:
        InputMissing: the stage has not published yet.
        DataError: the record is broken, or one of its files is missing or of another size.
    """
    record = find(artifacts, run_id, stage)
    url = record_url(artifacts, run_id, stage)
    if record is None:
        raise InputMissing(f"{url}: missing; stage {stage} has to finish first")
    _check_fingerprint(record, fingerprint, url)
    return record


def _check_fingerprint(record: Record, expected: str, url: str) -> None:
    if record.fingerprint != expected:
        raise DataError(
            f"{url}: fingerprint is {record.fingerprint[:8]}, expected {expected[:8]}; plan the run"
            " again"
        )


def find_cached(artifacts: str, fingerprint: str) -> Record | None:
    """The record that first produced a fingerprint, in whichever run; None if there is none."""
    url = pointer_url(artifacts, fingerprint)
    try:
        pointer = json.loads(storage.read(url))
        record_at = storage.join(artifacts, str(pointer["record"]))
        record = _parse(storage.read(record_at), record_at)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{url}: not a cache pointer ({e}); delete it to run the stage") from e
    _verify(record, artifacts, record_at)
    return record


def adopt(cached: Record, run_id: str, artifacts: str) -> Record:
    """Make another run's record this run's own: same outputs, no work."""
    return publish(cached.model_copy(update={"run_id": run_id}), artifacts)


def find_or_adopt(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record | None:
    """The stage's record if there is nothing left to do: its own, or another run's taken over.

    Completes what a kill right behind the record may have left out: cache pointer and copies.
    """
    record = find(artifacts, run_id, stage)
    if record is not None:
        _check_fingerprint(record, fingerprint, record_url(artifacts, run_id, stage))
        point(record, artifacts)
    elif cached := find_cached(artifacts, fingerprint):
        log.info("stage %s: taking over the record of run %s", stage, cached.run_id)
        record = adopt(cached, run_id, artifacts)
    if record is not None:
        copy_for_people(record, artifacts)
    return record


def copy_for_people(record: Record, artifacts: str) -> None:
    """Copy the files that people open to the run's folder; nothing ever reads them there."""
    names = PEOPLE_COPIES.get(record.stage, ())
    for file in (file for file in record.outputs if file.name in names):
        url = storage.join(run_prefix(artifacts, record.run_id), file.name)
        if storage.size_bytes(url) != file.size_bytes:
            storage.write(url, read_output(file, artifacts))


def read_output(file: OutputFile, artifacts: str) -> bytes:
    """Read one output whole, verified."""
    return storage.read_verified(
        storage.join(artifacts, file.path),
        expected_bytes=file.size_bytes,
        expected_sha256=file.sha256,
    )


def _verify(record: Record, artifacts: str, url: str) -> None:
    for file in record.outputs:
        size = storage.size_bytes(storage.join(artifacts, file.path))
        if size != file.size_bytes:
            found = "is missing" if size is None else f"holds {size} bytes"
            raise DataError(
                f"{url}: {file.path} {found}, expected {file.size_bytes} bytes; restore it, or"
                " delete the record to run the stage again"
            )


def _dump(record: Record) -> bytes:
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


def _parse(data: bytes, url: str) -> Record:
    try:
        return Record.model_validate_json(data)
    except ValidationError as e:
        raise DataError(f"{url}: not a stage record: {first_error(e)}") from e
