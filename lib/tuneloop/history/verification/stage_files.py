"""Verify the record of a stage, its outputs, its cache pointer, and the copies for people."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import read_verdict
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.stage_logs.archive import AttemptEnd
from tuneloop.artifacts.usage.held import StageHeld
from tuneloop.errors import DataError
from tuneloop.history.stored import is_alive
from tuneloop.history.verification.findings import Findings
from tuneloop.stages.table import STAGES
from tuneloop.storage import files
from tuneloop.storage.sealed import SEAL, unsealed
from tuneloop.validation import first_error, shorten

M = TypeVar("M", bound=BaseModel)
_SHARD = re.compile(r"record-(\d{5}-of-\d{5})\.json")
_PROGRESS = re.compile(r"progress(-.+)?\.json")


def verify_stage(
    findings: Findings, run_id: str, stage: str, fingerprint: str, names: set[str], now: datetime
) -> Record | None:
    """Verify one stage of a run.

    Args:
        findings: receives what is found.
        run_id: id of the run.
        stage: name of the stage.
        fingerprint: fingerprint that the run manifest states; empty if it cannot be read.
        names: paths of all files of the run, relative to the artifacts.
        now: the current time; the log of a running stage is not checked.

    Returns:
        The record; None if the stage has none, or a broken one.
    """
    prefix = f"training_runs/{run_id}/{stage}"
    record = None
    if f"{prefix}/record.json" in names:
        record = _record(findings, run_id, stage, None, fingerprint)
    elif fingerprint:
        _names_record(findings, fingerprint, f"{prefix}/record.json")
    for name in sorted(names):
        part = _SHARD.fullmatch(name.removeprefix(f"{prefix}/"))
        if part is not None:
            _record(findings, run_id, stage, part[1], fingerprint)
    if record is not None:
        _pointer(findings, record)
        _copies(findings, record)
    _side_files(findings, run_id, stage, fingerprint, names, has_record=record is not None, now=now)
    return record


def _record(
    findings: Findings, run_id: str, stage: str, part: str | None, fingerprint: str
) -> Record | None:
    url = layout.record_url(findings.artifacts, run_id, stage, part)
    path = url.removeprefix(f"{findings.artifacts.rstrip('/')}/")
    record = None
    with findings.checking(path):
        record = records.parse(findings.read_json(path), url)
        records.check_place(record, url, run_id, stage, part)
        if fingerprint:
            records.check_fingerprint(record, fingerprint, url)
        for file in record.outputs:
            findings.compare(file.path, file.size_bytes, file.sha256)
    return record


def _pointer(findings: Findings, record: Record) -> None:
    path = f"stages/{record.fingerprint}.json"
    with findings.checking(path):
        found = records.follow_pointer(findings.artifacts, record.fingerprint, record.stage)
        if found is None:
            raise DataError(
                f"{findings.url(path)}: it or the record that it names is missing, expected the"
                f" cache pointer of stage {record.stage}; `tuneloop run` writes it again"
            )


def _names_record(findings: Findings, fingerprint: str, path: str) -> None:
    """Note that a record is missing, if the cache pointer of its fingerprint names it."""
    try:
        data = files.read(findings.url(f"stages/{fingerprint}.json"))
    except FileNotFoundError:
        return
    if path.encode() in data:
        text = f"{findings.url(path)}: is missing, but the cache pointer names it; `tuneloop run`"
        findings.add(path, f"{text} makes it again")


def _copies(findings: Findings, record: Record) -> None:
    row = STAGES.get(record.stage)
    for file in (each for each in record.outputs if row and each.name in row.copies):
        findings.compare(f"training_runs/{record.run_id}/{file.name}", file.size_bytes, file.sha256)


def _side_files(
    findings: Findings,
    run_id: str,
    stage: str,
    fingerprint: str,
    names: set[str],
    *,
    has_record: bool,
    now: datetime,
) -> None:
    """Verify what a stage leaves besides its results; no stage reads it."""
    prefix = f"training_runs/{run_id}/{stage}"
    own = {name for name in names if name.startswith(f"{prefix}/")}
    outputs = {name for name in own if name.endswith("/output.txt")}
    folders = {name.rpartition("/")[0] for name in own if name.startswith(f"{prefix}/logs/")}
    # A process of this machine leaves these; an adopted stage has no log, a pod no spec.json.
    local = {folder for folder in folders if "_local_" in folder}
    expected = {f"{folder}/output.txt" for folder in local}
    if local:
        expected |= {f"{prefix}/{name}" for name in ("spec.json", "log.txt", "progress.json")}
        expected |= {f"{prefix}/lock"}
    if has_record and outputs:
        expected |= {f"{folder}/end.json" for folder in local}
    for path in sorted(expected - own):
        findings.add(path, f"{findings.url(path)}: is missing, expected a file of stage {stage}")
    for path in sorted(own):
        _side_file(findings, path, run_id, stage, fingerprint, now)


def _side_file(
    findings: Findings, path: str, run_id: str, stage: str, fingerprint: str, now: datetime
) -> None:
    prefix = f"training_runs/{run_id}/{stage}/"
    name, url = path.removeprefix(prefix), findings.url(path)
    if name == "spec.json":
        with findings.checking(path):
            _stage_spec(findings, path, run_id, stage, fingerprint)
    elif _PROGRESS.fullmatch(name):
        progress = _parsed(findings, path, Progress)
        if progress is not None and progress.stage not in ("", stage):
            findings.add(path, f"{url}: is the heartbeat of stage {progress.stage}; delete it")
        elif progress is not None and progress.log_sha256 and not is_alive(progress, now):
            log = path.replace("progress", "log").replace(".json", ".txt")
            _text(findings, log, progress.log_sha256, path)
    elif name == "verdict.json":
        with findings.checking(path):
            findings.read_json(path)
            read_verdict(findings.url(prefix))
    elif name == "usage.json":
        _parsed(findings, path, StageHeld)
    elif name.endswith("/end.json"):
        end = _parsed(findings, path, AttemptEnd)
        if end is not None and end.output_sha256:
            _text(findings, path.replace("end.json", "output.txt"), end.output_sha256, path)
    elif name == "lock":
        with findings.checking(path):
            if files.size_bytes(url):
                raise DataError(f"{url}: is not empty, expected a lock file; delete it")


def _stage_spec(findings: Findings, path: str, run_id: str, stage: str, fingerprint: str) -> None:
    """Verify the spec that a stage has read, by its seal and the run that it names.

    This version need not know its keys, because an older or newer one may have written it.
    """
    url = findings.url(path)
    try:
        value = unsealed(json.loads(findings.read_json(path)))
    except (ValueError, RecursionError) as e:
        raise DataError(f"{url}: {e}; no stage reads it again, so delete it") from e
    if not isinstance(value, dict):
        raise DataError(f"{url}: is no JSON object, expected the spec of a stage; delete it")
    found = {key: value.get(key) for key in ("run_id", "stage", "fingerprint")}
    expected = {"run_id": run_id, "stage": stage, "fingerprint": fingerprint}
    for key in found:
        if expected[key] and found[key] != expected[key]:
            raise DataError(
                f"{url}: {key} is {shorten(found[key])}, expected {expected[key]}; delete it"
            )


def _parsed(findings: Findings, path: str, model: type[M]) -> M | None:
    parsed = None
    with findings.checking(path):
        try:
            data = findings.read_json(path)
            parsed = model.model_validate_json(data)
            if model is AttemptEnd and (
                more := set(json.loads(data)) - {*model.model_fields, SEAL}
            ):
                raise DataError(f"{findings.url(path)}: has the unknown key {min(more)}; delete it")
        except ValidationError as e:
            raise DataError(f"{findings.url(path)}: {first_error(e)}; delete it") from e
    return parsed


def _text(findings: Findings, path: str, sha256: str, told_by: str) -> None:
    """Compare a log with its digest; if they differ, either of the two files was changed."""
    with findings.checking(path):
        if hashlib.sha256(files.read(findings.url(path))).hexdigest() != sha256:
            findings.add(told_by, f"{findings.url(told_by)}: has the digest of another log")
            raise DataError(
                f"{findings.url(path)}: is not the log that was written, so it was changed; no"
                " stage reads it"
            )
