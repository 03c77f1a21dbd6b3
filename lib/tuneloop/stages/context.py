"""What the code of a stage works with: outputs, counts, progress, upstream records."""

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
from tuneloop.errors import (
    Transient,
)
from tuneloop.specs.stages import StageSpec
from tuneloop.stages import reuse
from tuneloop.storage import files, paths


class Output:
    """One file under way."""

    def __init__(self, name: str, path: str, writer: files.Writer, *, has_timings: bool) -> None:
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
        self.part = layout.part_name(index, count)
        self.rank, self.ranks = gang_position(os.environ)
        self.at_end: Callable[[], None] = lambda: None
        """Called behind the record: the first process of a gang lets the others go."""
        self.spec = spec
        self.artifacts = spec.execution.artifacts
        self.prefix = layout.stage_prefix(self.artifacts, spec.run_id, spec.stage)
        self.attempt = attempt
        self.parent = os.getppid()
        self.inputs: dict[str, str] = dict(spec.upstream)
        self.counts: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self._started_at, self._started = started_at, time.monotonic()
        self._outputs: list[OutputFile] = []
        self._upstream: dict[str, Record] = {}
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()

    def standing_record(self) -> Record | None:
        """The record that leaves nothing to do, if there is one."""
        spec = self.spec
        return reuse.find_or_adopt(self.artifacts, spec.run_id, spec.stage, spec.fingerprint)

    def block(self, pieces: int) -> range:
        """This process's share of so many pieces of work: a run of neighbours."""
        return range(self.index * pieces // self.count, (self.index + 1) * pieces // self.count)

    def own_url(self, name: str) -> str:
        """Where this process keeps a file of its own, such as log.txt; log-00003-of-00016.txt."""
        stem, _, suffix = name.partition(".")
        own = f"{stem}-{self.part}" if self.part else stem
        own += f"-rank-{self.rank:05d}" if self.rank else ""
        return paths.join(self.prefix, f"{own}.{suffix}" if suffix else own)

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
        """Return the record of an upstream stage; its outputs are checked once for each process."""
        if name not in self._upstream:
            fingerprint = self.spec.upstream[name]
            self._upstream[name] = records.load(self.artifacts, self.spec.run_id, name, fingerprint)
        return self._upstream[name]

    def set_results(self, counts: RecordPart, results: RecordPart | None = None) -> None:
        """Put the stage's counts and results into its record."""
        self.counts = counts.model_dump(mode="json")
        self.results = {} if results is None else results.model_dump(mode="json")

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
        with files.Writer(paths.join(self.artifacts, path)) as writer:
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
            provenance=provenance.gather(),
        )

    def progress_json(self) -> bytes:
        """Return the content of progress.json."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        value = {"stage": self.spec.stage, "attempt": self.attempt, "updated_at": now}
        return dump_progress(Progress.model_validate({**value, **self._progress}))


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
