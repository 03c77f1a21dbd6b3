"""The object that a stage's code works with: outputs, counts, progress, upstream records."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuneloop import provenance
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.progress import Progress, dump_progress
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.results import RecordPart
from tuneloop.artifacts.usage.restarts import Restarts
from tuneloop.artifacts.usage.work import Work
from tuneloop.errors import (
    Transient,
)
from tuneloop.settings.environment import read_settings
from tuneloop.specs.stages import StageSpec
from tuneloop.stages.lifecycle import reuse
from tuneloop.stages.lifecycle.pace import Pace
from tuneloop.storage import files, paths


class Output:
    """An output file that is being written."""

    def __init__(self, name: str, path: str, writer: files.Writer, *, has_timings: bool) -> None:
        """Start with no rows; the path is relative to the artifacts prefix."""
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
        """Finish the file and return its description."""
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
    """The argument of a stage's `run`: where to write, what to count, when to stop."""

    def __init__(
        self,
        spec: StageSpec,
        *,
        started_at: datetime.datetime,
        attempt: str,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        """Start without outputs; nothing is written yet.

        Args:
            spec: the stage spec.
            started_at: start time of this process.
            attempt: name of the folder that this process writes to.
            shard_index: number of this process among those that share the stage, from 0.
            shard_count: number of processes that share the stage.
        """
        self.shard_index, self.shard_count = shard_index, shard_count
        self.shard = layout.shard_name(shard_index, shard_count)
        self.process_index, self.process_count = process_position(os.environ)
        self.holds_unsaved_work = False
        """Whether ending the process now would lose work that the stage can still save."""
        self.at_end: Callable[[], None] = lambda: None
        """Called after the record is published; a process group ends together here."""
        self.on_metrics: Callable[[Mapping[str, Any]], None] = lambda row: None
        """Called with the metrics of each step, as in metrics.jsonl; must return at once."""
        self.spec = spec
        self.artifacts = spec.execution.artifacts
        self.prefix = layout.stage_prefix(self.artifacts, spec.run_id, spec.stage)
        self.attempt = attempt
        self.parent = os.getppid()
        self.inputs: dict[str, str] = dict(spec.upstream)
        self.counts: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self.useful_seconds: float | None = None
        """Seconds of this process that the result contains; None means the whole process."""
        self.step_seconds = 0.0
        """Usual seconds of a training step, for the steps that were repeated."""
        self._shard_seconds = 0.0
        self._started_at, self._started = started_at, time.monotonic()
        self._outputs: list[OutputFile] = []
        self._upstream: dict[str, Record] = {}
        self._progress: dict[str, Any] = {}
        self._pace = Pace()
        self._restarts = Restarts()
        self._stop = threading.Event()

    def existing_record(self) -> Record | None:
        """Return the record of this stage if it is already finished; None otherwise."""
        spec = self.spec
        return reuse.find_or_adopt(self.artifacts, spec.run_id, spec.stage, spec.fingerprint)

    def block(self, pieces: int) -> range:
        """Return this process's share of the pieces of work, as consecutive numbers."""
        return range(
            self.shard_index * pieces // self.shard_count,
            (self.shard_index + 1) * pieces // self.shard_count,
        )

    def own_url(self, name: str) -> str:
        """Return the URL of a file of this process alone: log.txt, or log-00003-of-00016.txt."""
        stem, _, suffix = name.partition(".")
        own = f"{stem}-{self.shard}" if self.shard else stem
        own += f"-rank-{self.process_index:05d}" if self.process_index else ""
        return paths.join(self.prefix, f"{own}.{suffix}" if suffix else own)

    def take_over(self, shards: list[Record]) -> None:
        """Take the outputs of all shards into this record, and add up their counts."""
        for shard in shards:
            self._outputs += shard.outputs
            self.inputs |= shard.inputs
            self._shard_seconds += shard.work.useful_seconds if shard.work else shard.seconds
            for name, number in shard.counts.items():
                self.counts[name] = self.counts.get(name, 0) + number

    def merging(self) -> Stage:
        """Return the same stage for the process that merges the shards."""
        merged = Stage(self.spec, started_at=self._started_at, attempt=f"{self.attempt}-merge")
        merged._stop = self._stop
        return merged

    def upstream(self, name: str) -> Record:
        """Return the record of an upstream stage; each process checks its outputs once."""
        if name not in self._upstream:
            fingerprint = self.spec.upstream[name]
            self._upstream[name] = records.load(self.artifacts, self.spec.run_id, name, fingerprint)
        return self._upstream[name]

    def set_results(self, counts: RecordPart, results: RecordPart | None = None) -> None:
        """Put the stage's counts and results into its record."""
        self.counts = counts.model_dump(mode="json")
        self.results = {} if results is None else results.model_dump(mode="json")

    def withdraw(self) -> list[OutputFile]:
        """Remove all outputs from the record: they were intermediate files."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def keep(self, file: OutputFile) -> None:
        """Put a withdrawn file back into the record unchanged."""
        self._outputs.append(file)

    @contextlib.contextmanager
    def output(
        self, name: str, *, has_timings: bool = False, folder: str | None = None
    ) -> Iterator[Output]:
        """Write a file of this attempt; it enters the record if the block ends without an error.

        Args:
            name: name by which later stages find the file.
            has_timings: whether the file holds wall times.
            folder: subfolder of the attempt, if the attempt has a withdrawn file of that name.
        """
        within = f"{folder}/{name}" if folder else name
        path = (
            f"training_runs/{self.spec.run_id}/{self.spec.stage}/attempts/{self.attempt}/{within}"
        )
        with files.Writer(paths.join(self.artifacts, path)) as writer:
            output = Output(name, path, writer, has_timings=has_timings)
            yield output
            self._outputs.append(output.close())

    def write_output(self, name: str, data: bytes, *, has_timings: bool = False) -> None:
        """Write a whole file of this attempt; the rows of JSONL files are counted.

        In a process group only the first process writes, because all have the same data.
        """
        if self.process_index:
            return
        with self.output(name, has_timings=has_timings) as output:
            output.write(data)
            output.rows = data.count(b"\n") if name.endswith(".jsonl") else 0

    def progress(self, step: int, total: int, **values: float) -> None:
        """Report progress, which the next heartbeat writes to progress.json."""
        self._pace.report(step, time.monotonic())
        self._progress = {"step": step, "total": total, **values}

    def estimated_progress(self, step: int, total: int, seconds_left: float | None) -> None:
        """Report progress of units of different duration, with an estimated remaining time."""
        known = {} if seconds_left is None else {"estimated_seconds_left": round(seconds_left, 1)}
        self.progress(step, total, **known)

    def note_earlier(self, found: Progress | None) -> None:
        """Take notice of the last heartbeat of an earlier attempt."""
        self._restarts = Restarts.after(found)

    def note_first_step(self, step: int) -> None:
        """Take notice of the first step of this attempt, by which the lost steps are known."""
        self._restarts.first_step(step)

    def _work(self, seconds: float) -> Work:
        """Return the time of all processes of the stage; this one has run for some seconds."""
        useful = seconds if self.useful_seconds is None else self.useful_seconds
        repeated = self._restarts.repeated
        return Work(
            useful_seconds=round(self.process_count * useful + self._shard_seconds, 3),
            repeated_steps=repeated,
            repeated_seconds=round(self.process_count * repeated * self.step_seconds, 3),
        )

    def request_stop(self) -> None:
        """Ask the stage to stop at a point from which it can continue."""
        self._stop.set()

    def should_stop(self) -> bool:
        """Whether a signal has asked the stage to stop."""
        return self._stop.is_set()

    def check_stop(self) -> None:
        """Raise Transient if a signal has asked the stage to stop; for stages that start over."""
        if self._stop.is_set():
            raise Transient(f"stage {self.spec.stage}: stopped by a signal; run again to continue")

    def build_record(self) -> Record:
        """Build the record of everything done so far."""
        seconds = round(time.monotonic() - self._started, 3)
        return Record(
            run_id=self.spec.run_id,
            stage=self.spec.stage,
            part=self.shard,
            fingerprint=self.spec.fingerprint,
            attempt=self.attempt,
            inputs=self.inputs,
            outputs=tuple(self._outputs),
            counts=self.counts,
            results=self.results,
            started_at=self._started_at.isoformat(timespec="seconds"),
            seconds=seconds,
            work=self._work(seconds),
            provenance=provenance.gather(),
        )

    def progress_json(self, log_sha256: str | None = None) -> bytes:
        """Return the content of progress.json.

        Args:
            log_sha256: digest of the log that was written with it.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        value: dict[str, Any] = {
            "stage": self.spec.stage,
            "attempt": self.attempt,
            "updated_at": now,
            **self._restarts.as_json(),
        }
        if log_sha256 is not None:
            value["log_sha256"] = log_sha256
        if self._progress:
            rate = self._pace.rate(time.monotonic())
            value["rate_per_second"] = None if rate is None else float(f"{rate:.4g}")
        return dump_progress(Progress.model_validate({**value, **self._progress}))


def process_position(env: Mapping[str, str]) -> tuple[int, int]:
    """Return (process index, process count) of this process, without starting JAX.

    On TPU, GKE sets the number of the host in its slice and the number of the slice.
    """
    settings = read_settings(env)
    process_count = settings.processes
    if settings.process_id is not None:
        return settings.process_id, process_count
    hosts = process_count // int(env.get("MEGASCALE_NUM_SLICES", "1"))
    slice_id, host = (int(env.get(name, "0")) for name in ("MEGASCALE_SLICE_ID", "TPU_WORKER_ID"))
    return (slice_id * hosts + host if process_count > 1 else 0), process_count
