"""The loop over the stages: a stage is submitted once the record of the previous one verifies.

A sequence keeps no state: records show what is done, the backend shows what is running. It can
therefore be killed and restarted on any machine, and two at once are harmless: the second adopts
what the first has submitted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.records import Record
from tuneloop.errors import StageFailed, StillRunning
from tuneloop.history.index import update_index
from tuneloop.runs.backend import Backend
from tuneloop.runs.results import Progress, StageResult
from tuneloop.stages.lifecycle import reuse

VERIFIED_BYTES = 2**30
"""Maximum bytes of a stage's inputs or of its cached outputs that are read to verify them."""
VERIFIED_FILE_BYTES = 64 << 20
"""Largest cached file of which the digest is checked by default; sizes are always checked."""


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of a sequence; each gets the stage's name first."""

    started: Callable[[str], None] = lambda name: None
    """Called before the stage is submitted."""
    waiting: Callable[[str, Verdict], None] = lambda name, verdict: None
    """Called at every poll of an unfinished stage whose verdict has a cause."""
    progress: Progress = lambda name, value: None
    """Called at every poll of a running stage that has written a heartbeat."""
    finished: Callable[[StageResult], None] = lambda result: None
    """Called once the stage has its record."""
    failed: Callable[[str, Verdict, str], None] = lambda name, verdict, attempt: None
    """Called once the stage has ended without a record; the last argument identifies the attempt,
    and is the same in every supervisor."""


@dataclass(frozen=True)
class Sequence:
    """The stages of one run on one backend."""

    backend: Backend
    callbacks: Callbacks = field(default_factory=Callbacks)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    verify_all: bool = False
    """Whether the digests of all cached files are checked, however large they are."""
    verify_file_bytes: int = VERIFIED_FILE_BYTES
    """Largest cached file of which the digest is checked; 0 checks sizes only."""

    def next_stage(self) -> str | None:
        """Return the first stage that has no record; None if every stage has one."""
        for stage in self.backend.fingerprints:
            if self._find_record(stage) is None:
                return stage
        return None

    def submit(self) -> str | None:
        """Submit the first stage that has no record, replacing a failed attempt.

        Returns:
            The stage's name; None if every stage has its record.
        """
        stage = self.next_stage()
        if stage is not None:
            self.backend.submit(stage, retry_failed=True)
        return stage

    def run(
        self, *, retry_failed: bool, stop_on_interrupt: bool, for_seconds: float | None = None
    ) -> list[StageResult]:
        """Submit stage after stage and wait for each record.

        Args:
            retry_failed: whether to retry a stage that failed before this call (`run`), or to
                return its verdict (`wait`, the in-cluster submitter).
            stop_on_interrupt: whether KeyboardInterrupt cancels the stage, or leaves it running
                for the next caller.
            for_seconds: maximum seconds to wait; None waits until the run ends.

        Raises:
            StageFailed: a stage ended without a record; its machines are released.
            StillRunning: `for_seconds` have passed; the run continues.
        """
        until = None if for_seconds is None else self.clock() + for_seconds
        results: list[StageResult] = []
        try:
            for stage in self.backend.fingerprints:
                result = self._run_stage(stage, results, retry_failed, stop_on_interrupt, until)
                results.append(result)
                if result.state == "done" or len(results) == len(self.backend.fingerprints):
                    update_index(self.backend.artifacts, self.backend.run_id)
                self.callbacks.finished(result)
        finally:
            self.backend.close()
        return results

    def _run_stage(
        self,
        stage: str,
        done: list[StageResult],
        retry_failed: bool,
        stop_on_interrupt: bool,
        until: float | None,
    ) -> StageResult:
        since = self.clock()
        record = self._find_record(stage)
        if record is not None:
            self._verify_cached(record)
            self.backend.settle(stage)
            return StageResult(stage, "cached", self.clock() - since, record)
        self._verify_inputs(done)
        self.callbacks.started(stage)
        try:
            self.backend.submit(stage, retry_failed=retry_failed)
            record = self._wait(stage, until)
        except KeyboardInterrupt:
            if stop_on_interrupt:
                self.backend.cancel(stage)
            raise
        return StageResult(stage, "done", self.clock() - since, record)

    def _find_record(self, stage: str) -> Record | None:
        backend = self.backend
        fingerprint = backend.fingerprints[stage]
        return reuse.find_or_adopt(backend.artifacts, backend.run_id, stage, fingerprint)

    def _verify_cached(self, record: Record) -> None:
        """Verify the outputs of a stage that is not run, and repair the copies for people.

        Raises:
            DataError: an output is not as recorded; the message names the file.
        """
        budget = VERIFIED_BYTES
        for file in sorted(record.outputs, key=lambda each: each.size_bytes):
            budget -= file.size_bytes
            if self.verify_all or (file.size_bytes <= self.verify_file_bytes and budget >= 0):
                records.verify_digest(file, self.backend.artifacts)
        limit = None if self.verify_all else self.verify_file_bytes
        reuse.repair_copies(record, self.backend.artifacts, limit)

    def _verify_inputs(self, done: list[StageResult]) -> None:
        """Verify the inputs of the next stage before requesting machines for it.

        At most VERIFIED_BYTES are read. The sizes of all files were verified with the record, and
        the stage itself verifies every digest.
        """
        budget = VERIFIED_BYTES
        for file in done[-1].record.outputs if done else ():
            budget -= file.size_bytes
            if budget >= 0:
                records.verify_digest(file, self.backend.artifacts)

    def _wait(self, stage: str, until: float | None) -> Record:
        while True:
            verdict = self.backend.poll(stage)
            self.backend.archive(stage)
            record = self._find_record(stage) if verdict.is_final else None
            if record is not None:
                self.backend.succeeded(stage)
                return record
            if verdict.is_final and verdict.state != "Succeeded":
                self.backend.give_up(stage, verdict)
                self.callbacks.failed(stage, verdict, self.backend.attempt(stage))
                exit_code = verdict.exit_code or 20
                raise StageFailed(verdict.sentence(stage), stage=stage, exit_code=exit_code)
            self._tell(stage, verdict)
            if until is not None and self.clock() + self.backend.poll_seconds > until:
                raise StillRunning(
                    f"run {self.backend.run_id}: stage {stage} is still running:"
                    f" {verdict.state}: {verdict.cause}; call `wait` again"
                )
            self.sleep(self.backend.poll_seconds)

    def _tell(self, stage: str, verdict: Verdict) -> None:
        if verdict.cause:
            self.callbacks.waiting(stage, verdict)
        progress = self.backend.progress(stage)
        if progress is not None:
            self.callbacks.progress(stage, progress)
