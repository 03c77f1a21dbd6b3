"""The record of a stage: its class, and how it is published and loaded.

A stage writes its record last, create-only. A stage has succeeded once its record exists; exit
codes are not trusted, and outputs without a record are never read.
"""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.artifacts.layout import pointer_url, record_url
from tuneloop.artifacts.results import RecordPart
from tuneloop.artifacts.usage.work import Work
from tuneloop.errors import DataError, InputMissing
from tuneloop.storage import files, paths
from tuneloop.storage.links import refuse_links_out
from tuneloop.storage.sealed import Sealed, sealed
from tuneloop.validation import first_error

log = logging.getLogger(__name__)

Part = TypeVar("Part", bound=RecordPart)
Below = Annotated[str, AfterValidator(paths.below)]
"""A relative path that does not lead out of the folder that it is relative to."""


KEPT_INPUT = "kept answers of "
"""First part of the names of inputs that are keys of kept answers (`layout.eval_answers_url`)."""


class OutputFile(BaseModel):
    """An output file of a stage, identified by its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Below
    """Name by which later stages find the file, such as `examples-00000-of-00001.jsonl`."""
    path: Below
    """Path relative to the artifacts prefix."""
    size_bytes: int
    sha256: str
    rows: int | None = None
    """Lines of a JSONL file; null for other files."""
    has_timings: bool = False
    """Whether the file holds wall times, which differ between runs of the same fingerprint."""


class Record(Sealed, BaseModel):
    """What a stage did: inputs, outputs, counts, timings, provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    stage: str
    part: str | None = None
    """Shard of the process that wrote the record, such as `00003-of-00016`; null for the record of
    the whole stage."""
    fingerprint: str
    attempt: str
    inputs: dict[str, str]
    """Inputs: name -> sha256 of a file, or fingerprint of a stage."""
    outputs: tuple[OutputFile, ...]
    counts: dict[str, int]
    results: dict[str, Any] = {}
    """Results such as losses and accuracies."""
    started_at: str
    """Start of the process, UTC, ISO 8601."""
    seconds: float
    """Seconds from the start of the process to this record."""
    work: Work | None = None
    """Time of all processes that made the result; null in records of older versions."""
    provenance: dict[str, Any]

    def output(self, name: str) -> OutputFile:
        """Return the output of this name; DataError if the stage wrote none."""
        for file in self.outputs:
            if file.name == name:
                return file
        names = ", ".join(file.name for file in self.outputs)
        raise DataError(
            f"record of {self.run_id}/{self.stage}: output {name} is missing, found {names};"
            " run the stage again with this version of tuneloop"
        )

    def outputs_like(self, prefix: str) -> tuple[OutputFile, ...]:
        """Return the outputs whose names start with the prefix, sorted by name."""
        return tuple(
            sorted((f for f in self.outputs if f.name.startswith(prefix)), key=lambda f: f.name)
        )

    @property
    def kept_answers(self) -> list[str]:
        """Keys of the kept answers of base models that the stage has used or written."""
        return [key for name, key in self.inputs.items() if name.startswith(KEPT_INPUT)]

    def counts_as(self, model: type[Part]) -> Part:
        """Return the counts as the model of this stage.

        Raises:
            DataError: a count is missing or wrong.
        """
        return self._part(model, self.counts)

    def results_as(self, model: type[Part]) -> Part:
        """Return the results as the model of this stage.

        Raises:
            DataError: a result is missing or wrong.
        """
        return self._part(model, self.results)

    def _part(self, model: type[Part], value: dict[str, Any]) -> Part:
        try:
            return model.model_validate(value)
        except ValidationError as e:
            raise DataError(
                f"record of {self.run_id}/{self.stage}: {first_error(e)}; run the stage again with"
                " this version of tuneloop"
            ) from e

    def content(self) -> dict[str, str]:
        """Return the digests of the outputs without wall times: name -> sha256."""
        return {file.name: file.sha256 for file in self.outputs if not file.has_timings}


def publish(record: Record, artifacts: str) -> Record:
    """Commit a stage or a shard: write its record create-only, then the stage's cache pointer.

    Returns:
        The published record. If another attempt was first, that is its record; if its content
        differs, the stage is not deterministic, which is logged.
    """
    url = record_url(artifacts, record.run_id, record.stage, record.part)
    if not files.publish(url, _dump(record)):
        first = parse(files.read(url), url)
        check_place(first, url, record.run_id, record.stage, record.part)
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
    """Write the cache pointer of a record, unless its fingerprint has one.

    A pointer that is damaged, or names a record that is not there, is replaced.
    """
    pointer = {"record": f"training_runs/{record.run_id}/{record.stage}/record.json"}
    url = pointer_url(artifacts, record.fingerprint)
    data = jsonl.dump_line(pointer)
    if not files.publish(url, data) and _read_pointed(artifacts, record) is None:
        log.warning("%s: named no usable record, so it was written again", url)
        files.write(url, data)


def _read_pointed(artifacts: str, of: Record) -> Record | None:
    """Return the record that the cache pointer of a record names; None if it is not usable."""
    try:
        return follow_pointer(artifacts, of.fingerprint, of.stage)
    except DataError:
        return None


def find(artifacts: str, run_id: str, stage: str, shard: str | None = None) -> Record | None:
    """Return the record of a stage, or of one of its shards; None if it is not published."""
    url = record_url(artifacts, run_id, stage, shard)
    try:
        record = parse(files.read(url), url)
    except FileNotFoundError:
        return None
    check_place(record, url, run_id, stage, shard)
    verify_outputs(record, artifacts, url)
    return record


def load(artifacts: str, run_id: str, stage: str, fingerprint: str) -> Record:
    """Return the record of an upstream stage.

    Raises:
        InputMissing: the stage has not published yet.
        DataError: the record is broken, or one of its files is missing or has another size.
    """
    record = find(artifacts, run_id, stage)
    url = record_url(artifacts, run_id, stage)
    if record is None:
        raise InputMissing(f"{url}: missing; stage {stage} has to finish first")
    check_fingerprint(record, fingerprint, url)
    return record


def check_fingerprint(record: Record, expected: str, url: str) -> None:
    """Raise DataError if a record does not have the fingerprint that the plan expects."""
    if record.fingerprint != expected:
        raise DataError(
            f"{url}: fingerprint is {record.fingerprint[:8]}, expected {expected[:8]}; plan the run"
            " again"
        )


def find_cached(artifacts: str, fingerprint: str, stage: str) -> Record | None:
    """Return the first record of a stage with a fingerprint, from any run; None if there is none.

    A pointer that is damaged, or names a record of another stage or fingerprint, is logged and not
    used: the stage runs, and the pointer is written again.
    """
    try:
        record = follow_pointer(artifacts, fingerprint, stage)
    except DataError as e:
        log.warning("%s; stage %s does not use it", e, stage)
        return None
    if record is not None:
        verify_outputs(record, artifacts, record_url(artifacts, record.run_id, stage))
    return record


def follow_pointer(artifacts: str, fingerprint: str, stage: str) -> Record | None:
    """Return the record that a cache pointer names; None if one of the two does not exist.

    Raises:
        DataError: the pointer or the record is damaged, or the record is another one.
    """
    url = pointer_url(artifacts, fingerprint)
    try:
        pointer = json.loads(files.read(url))
        runs, run_id, its_stage, name = pointer["record"].split("/")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise DataError(f"{url}: not a cache pointer ({e})") from e
    place = f"training_runs/{run_id}/{stage}/record.json"
    if [runs, its_stage, name] != ["training_runs", stage, "record.json"] or not paths.is_below(
        place
    ):
        raise DataError(f"{url}: names {pointer['record'][:200]!r}, expected a record of {stage}")
    record_at = paths.join(artifacts, place)
    try:
        record = parse(files.read(record_at), record_at)
    except FileNotFoundError:
        return None
    check_place(record, record_at, run_id, stage, None)
    check_fingerprint(record, fingerprint, record_at)
    return record


def read_output(file: OutputFile, artifacts: str) -> bytes:
    """Read a whole output and verify its size and sha256."""
    refuse_links_out(artifacts, [file.path])
    return files.read_verified(
        paths.join(artifacts, file.path),
        expected_bytes=file.size_bytes,
        expected_sha256=file.sha256,
    )


def verify_digest(file: OutputFile, artifacts: str) -> None:
    """Read an output in blocks; raise DataError if it is not as recorded."""
    refuse_links_out(artifacts, [file.path])
    for _ in files.iter_verified(paths.join(artifacts, file.path), file.size_bytes, file.sha256):
        pass


def verify_outputs(record: Record, artifacts: str, url: str) -> None:
    """Raise DataError if an output of a record is missing, has another size or lies elsewhere."""
    refuse_links_out(artifacts, [file.path for file in record.outputs])
    for file in record.outputs:
        size = files.size_bytes(paths.join(artifacts, file.path))
        if size != file.size_bytes:
            found = "is missing" if size is None else f"holds {size} bytes"
            raise DataError(
                f"{url}: {file.path} {found}, expected {file.size_bytes} bytes; restore it, or"
                " delete the record to run the stage again"
            )


def _dump(record: Record) -> bytes:
    value = sealed(record.model_dump(mode="json"))
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def parse(data: bytes, url: str) -> Record:
    """Parse a record; raise DataError if it is broken."""
    try:
        return Record.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{url}: not a stage record: {first_error(e)}; restore it, or delete it to run the"
            " stage again"
        ) from e


def check_place(record: Record, url: str, run_id: str, stage: str, part: str | None) -> None:
    """Raise DataError if a record is not the one that its place says."""
    found, expected = (record.run_id, record.stage, record.part), (run_id, stage, part)
    if found != expected:
        shown, wanted = ("/".join(filter(None, each)) for each in (found, expected))
        raise DataError(
            f"{url}: is the record of {shown[:200]}, expected that of {wanted}; restore it, or"
            " delete it to run the stage again"
        )
