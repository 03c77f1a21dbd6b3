"""The stage contract: what every stage does besides its work.

Own record there: exit 0. The same fingerprint made by another run: take its record over. Else do
the work under `attempts/<attempt>/`, and publish the record last. Logs go to stderr and log.txt,
progress to progress.json, the last sentence to the termination log; SIGTERM asks the stage to stop
where it can continue later. Exit codes are those of `tuneloop.errors`. Where several processes
share a stage, each publishes the record of its part, and whichever finds all parts there merges
them into the stage's.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from jobs.heartbeat import Heartbeat
from tuneloop import provenance, records, storage, storage_errors
from tuneloop.errors import (
    EXIT_BUG,
    EXIT_OK,
    InputMissing,
    OutOfMemory,
    SpecError,
    Transient,
    TuneloopError,
    UsageError,
)
from tuneloop.records import OutputFile, Record
from tuneloop.specs import StageSpec
from tuneloop.validation import first_error

log = logging.getLogger("tuneloop.stage")

CHECKOUT = Path(__file__).resolve().parent.parent
TERMINATION_LOG = "TUNELOOP_TERMINATION_LOG"
"""Names the file that the last sentence goes to; Kubernetes reads /dev/termination-log."""
TERMINATION_BYTES = 4096


class Output:
    """One file under way."""

    def __init__(self, name: str, path: str, writer: storage.Writer, *, has_timings: bool) -> None:
        """Nothing is written yet; the path is relative to the artifacts prefix."""
        self._name, self._path, self._has_timings = name, path, has_timings
        self._writer = writer
        self.rows = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._writer.write(data)

    def write_row(self, line: bytes) -> None:
        """Append one JSONL line."""
        self._writer.write(line)
        self.rows += 1

    def close(self) -> OutputFile:
        """Finish it."""
        written = self._writer.close()
        return OutputFile(
            name=self._name,
            path=self._path,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            rows=self.rows or None,
            has_timings=self._has_timings,
        )


class Stage:
    """What a stage's `run` is handed: where to write, what to count, when to stop."""

    def __init__(
        self,
        spec: StageSpec,
        *,
        started_at: datetime.datetime,
        attempt: str,
        index: int = 0,
        count: int = 1,
    ) -> None:
        """Nothing is written yet.

        Args:
            spec: what to do.
            started_at: of this process.
            attempt: names the folder that it writes to.
            index: which of the processes that share the stage this is.
            count: how many share it.
        """
        self.index, self.count = index, count
        self.part = records.part_name(index, count)
        self.rank, self.ranks = gang_position(os.environ)
        self.at_end: Callable[[], None] = lambda: None
        """Called behind the record: the first process of a gang lets the others go."""
        self.spec = spec
        self.artifacts = spec.execution.artifacts
        self.prefix = records.stage_prefix(self.artifacts, spec.run_id, spec.stage)
        self.attempt = attempt
        self.parent = os.getppid()
        self.inputs: dict[str, str] = dict(spec.upstream)
        self.counts: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self._started_at, self._started = started_at, time.monotonic()
        self._outputs: list[OutputFile] = []
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()

    def standing_record(self) -> Record | None:
        """The record that leaves nothing to do, if there is one."""
        spec = self.spec
        return records.find_or_adopt(self.artifacts, spec.run_id, spec.stage, spec.fingerprint)

    def block(self, pieces: int) -> range:
        """This process's share of so many pieces of work: a run of neighbours."""
        return range(self.index * pieces // self.count, (self.index + 1) * pieces // self.count)

    def own_url(self, name: str) -> str:
        """Where this process keeps a file of its own, such as log.txt; log-00003-of-00016.txt."""
        stem, _, suffix = name.partition(".")
        own = f"{stem}-{self.part}" if self.part else stem
        own += f"-rank-{self.rank:05d}" if self.rank else ""
        return storage.join(self.prefix, f"{own}.{suffix}" if suffix else own)

    def take_over(self, parts: list[Record]) -> None:
        """Make the outputs of all parts this record's own, and add their counts up."""
        for part in parts:
            self._outputs += part.outputs
            self.inputs |= part.inputs
            for name, number in part.counts.items():
                self.counts[name] = self.counts.get(name, 0) + number

    def merging(self) -> Stage:
        """The same stage, for the process that puts the parts together."""
        merged = Stage(self.spec, started_at=self._started_at, attempt=f"{self.attempt}-merge")
        merged._stop = self._stop
        return merged

    def upstream(self, name: str) -> Record:
        """The verified record of a stage before this one."""
        return records.load(self.artifacts, self.spec.run_id, name, self.spec.upstream[name])

    def withdraw(self) -> list[OutputFile]:
        """Take all outputs out of the record again: they were steps on the way to others."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def keep(self, file: OutputFile) -> None:
        """Put a file that was withdrawn back into the record as it is."""
        self._outputs.append(file)

    @contextlib.contextmanager
    def output(
        self, name: str, *, has_timings: bool = False, folder: str | None = None
    ) -> Iterator[Output]:
        """Write a file of this attempt; it enters the record when the block ends well.

        Args:
            name: what the next stage asks for.
            has_timings: whether it holds wall times.
            folder: below the attempt's, where the attempt has a withdrawn file of that name.
        """
        within = f"{folder}/{name}" if folder else name
        path = (
            f"training_runs/{self.spec.run_id}/{self.spec.stage}/attempts/{self.attempt}/{within}"
        )
        with storage.Writer(storage.join(self.artifacts, path)) as writer:
            output = Output(name, path, writer, has_timings=has_timings)
            yield output
            self._outputs.append(output.close())

    def write_output(self, name: str, data: bytes, *, has_timings: bool = False) -> None:
        """Write a whole file of this attempt; JSONL files are counted in rows.

        Of a gang the first process writes: the others have the same data.
        """
        if self.rank:
            return
        with self.output(name, has_timings=has_timings) as output:
            output.write(data)
            output.rows = data.count(b"\n") if name.endswith(".jsonl") else 0

    def progress(self, step: int, total: int, **values: float) -> None:
        """Say how far it is; reaches progress.json with the next heartbeat."""
        seconds = time.monotonic() - self._started
        self._progress = {
            "step": step,
            "total": total,
            "rate_per_second": round(step / seconds, 3) if seconds else None,
            **values,
        }

    def request_stop(self) -> None:
        """Ask the stage to stop where it can continue."""
        self._stop.set()

    def should_stop(self) -> bool:
        """Whether SIGTERM has come."""
        return self._stop.is_set()

    def check_stop(self) -> None:
        """Raise Transient if SIGTERM has come; for stages that simply start again."""
        if self._stop.is_set():
            raise Transient(f"stage {self.spec.stage}: stopped by a signal; run again to continue")

    def build_record(self) -> Record:
        """All that was done until now."""
        return Record(
            run_id=self.spec.run_id,
            stage=self.spec.stage,
            part=self.part,
            fingerprint=self.spec.fingerprint,
            attempt=self.attempt,
            inputs=self.inputs,
            outputs=tuple(self._outputs),
            counts=self.counts,
            results=self.results,
            started_at=self._started_at.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._started, 3),
            provenance=provenance.gather(CHECKOUT),
        )

    def progress_json(self) -> bytes:
        """What progress.json holds."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        value = {"stage": self.spec.stage, "attempt": self.attempt, "updated_at": now}
        return json.dumps({**value, **self._progress}, sort_keys=True).encode() + b"\n"


Run = Callable[[Any, Stage], None]
"""The work of a stage, or of one process's part of it: called with (stage spec, stage)."""
Merge = Callable[[Any, Stage, list[Record]], None]
"""Puts parts together: called with (stage spec, stage, records of the parts in order)."""


def run_stage(
    name: str,
    spec_url: str,
    run: Run,
    *,
    index: int = 0,
    count: int = 1,
    merge: Merge | None = None,
) -> int:
    """Run one stage, or one process's part of it, under the contract.

    Args:
        name: the stage that the command line asked for.
        spec_url: where its spec lies.
        run: the work.
        index: which of the processes that share it this is.
        count: how many share it.
        merge: makes the stage's record of the parts' records; called by whichever process finds
            that all parts are there.

    Returns:
        The exit code; 0 means that the record, or the part's record, is published.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("tuneloop").setLevel(logging.INFO)
    stage: Stage | None = None
    with contextlib.ExitStack() as stack:
        try:
            stage = _open_stage(name, spec_url, index, count)
            _ensure_record(stage, run, merge, stack)
        except Exception as e:  # the contract: a bug is 70 with a traceback, not Python's bare 1
            place = stage.prefix if stage else spec_url
            # Under the heartbeat, so that log.txt has it too.
            code = report_failure(_explained(e, name, place))
        else:
            code = EXIT_OK
    if stage is not None and stage.ranks > 1:
        _leave(code)
    return code


def gang_position(env: Mapping[str, str]) -> tuple[int, int]:
    """Which process of how many this is, before JAX is asked.

    On TPU GKE tells the host's number in its slice, and the slice's.
    """
    ranks = int(env.get("TUNELOOP_PROCESSES", "1"))
    if "TUNELOOP_PROCESS_ID" in env:
        return int(env["TUNELOOP_PROCESS_ID"]), ranks
    hosts = ranks // int(env.get("MEGASCALE_NUM_SLICES", "1"))
    slice_id, host = (int(env.get(name, "0")) for name in ("MEGASCALE_SLICE_ID", "TPU_WORKER_ID"))
    return (slice_id * hosts + host if ranks > 1 else 0), ranks


def _leave(code: int) -> NoReturn:
    """End this process of a gang at once: an ordinary exit would wait for peers that are gone."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _open_stage(name: str, url: str, index: int, count: int) -> Stage:
    try:
        spec: StageSpec = TypeAdapter(StageSpec).validate_json(storage.read(url))
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing; plan the run first") from e
    except ValidationError as e:
        raise SpecError(f"{url}: {first_error(e)}; plan the run again") from e
    if spec.stage != name:
        raise UsageError(f"{url}: is the spec of stage {spec.stage}, expected one of stage {name}")
    started_at = datetime.datetime.now(datetime.UTC)
    # Sorted by time, and unique where two attempts start in one second.
    attempt = f"{started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return Stage(spec, started_at=started_at, attempt=attempt, index=index, count=count)


def _ensure_record(
    stage: Stage, run: Run, merge: Merge | None, stack: contextlib.ExitStack
) -> None:
    """Do the work unless its record stands; lock and heartbeat last as long as the stack."""
    if stage.standing_record() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stage.request_stop())
    if stage.ranks == 1:
        # A second run, or one whose first was killed, waits for the process still at work.
        stack.enter_context(storage.exclusive(stage.own_url("lock"), stage.should_stop))
        if stage.standing_record() is not None:
            return
    stack.enter_context(Heartbeat(stage))
    if merge is None or stage.part is None:
        _publish(stage, run)
        return
    spec = stage.spec
    if records.find(stage.artifacts, spec.run_id, spec.stage, stage.part) is None:
        _publish(stage, run)
    # Killed between the two, the part stands and the next try has only this left to do.
    parts = _all_parts(stage)
    if parts is not None:
        _publish(stage.merging(), lambda spec, merged: merge(spec, merged, parts))


def _publish(stage: Stage, run: Run) -> None:
    """Work, then the record, then what people open."""
    spec = stage.spec
    part = f", part {stage.part}" if stage.part else ""
    log.info("stage %s of %s%s, attempt %s", spec.stage, spec.run_id, part, stage.attempt)
    run(spec, stage)
    if stage.rank == 0:
        record = records.publish(stage.build_record(), stage.artifacts)
        if record.part is None:
            records.copy_for_people(record, stage.artifacts)
        log.info("published after %.1f s", record.seconds)
    stage.at_end()


def _all_parts(stage: Stage) -> list[Record] | None:
    """The records of all parts, in order; None as long as one is missing."""
    found = []
    for index in range(stage.count):
        spec, part = stage.spec, records.part_name(index, stage.count)
        record = records.find(stage.artifacts, spec.run_id, spec.stage, part)
        if record is None:
            return None
        found.append(record)
    return found


_DATA_MODULES = ("ahocorasick_rs", "duckdb", "pyarrow", "rensa")
"""Of the export stage alone."""


def _explained(error: Exception, stage: str, place: str) -> Exception:
    """Give an expected failure its sentence; a bug comes back as it is."""
    if isinstance(error, TuneloopError):
        return error
    if refused := storage_errors.refusal(error, place):
        return refused
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("tuneloop"):
        extra = "store" if stage == "import" else "train"
        if error.name in _DATA_MODULES:
            extra = "data"
        return UsageError(
            f"stage {stage}: Python module {error.name} is not installed; install the {extra}"
            f" extra (pip install 'tuneloop[{extra}]', or a lock under requirements/)"
        )
    # By name: jaxlib is not installed where export and import run.
    is_device = type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
    if isinstance(error, MemoryError) or (is_device and "RESOURCE_EXHAUSTED" in str(error)):
        return OutOfMemory(
            f"stage {stage}: out of memory ({str(error)[:200]}); lower train.batch_size or"
            " train.max_length_tokens, or use a larger machine"
        )
    return error


def report_failure(error: Exception) -> int:
    """Say it in the log and in the termination message; returns the exit code."""
    code = error.exit_code if isinstance(error, TuneloopError) else EXIT_BUG
    if code == EXIT_BUG:
        log.error("%s", "".join(traceback.format_exception(error)))
    else:
        log.error("%s", error)
    cause = str(error) if code != EXIT_BUG else f"{type(error).__name__}: {error}"
    while len(message := json.dumps({"cause": cause, "exit_code": code})) > TERMINATION_BYTES:
        cause = cause[: len(cause) // 2]  # the whole is in the log; this has to stay whole JSON
    target = os.environ.get(TERMINATION_LOG, "/dev/termination-log")
    # Absent outside a container and without a runner: then stderr has said it all.
    with contextlib.suppress(OSError), open(target, "r+b") as file:
        file.write(message.encode())
    return code
