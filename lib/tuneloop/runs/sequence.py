"""The loop over the stages: a stage is submitted when the record of the one before it verifies.

The sequence keeps no state, whatever the backend. Records tell what is done, the backend tells
what is under way. A sequence can therefore be killed and started anywhere, and two at once do no
harm: the second adopts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.verdict import Verdict
from tuneloop.errors import StageFailed, StillRunning
from tuneloop.runs.backend import Backend
from tuneloop.runs.results import Progress, StageResult
from tuneloop.stages import reuse

VERIFIED_BYTES = 2**30
"""Bytes of a stage's inputs that the sequence reads to check them, perhaps from far away."""


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of a sequence; each gets the stage's name first."""

    started: Callable[[str], None] = lambda name: None
    """Before the stage is submitted."""
    waiting: Callable[[str, Verdict], None] = lambda name, verdict: None
    """At every poll of a stage that is not done, if the backend has something to tell."""
    progress: Progress = lambda name, value: None
    """At every poll of a running stage that has written a heartbeat."""
    finished: Callable[[StageResult], None] = lambda result: None
    """When the stage has its record."""


@dataclass(frozen=True)
class Sequence:
    """One run on one backend."""

    backend: Backend
    callbacks: Callbacks = field(default_factory=Callbacks)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def next_stage(self) -> str | None:
        """Return the first stage that has no record; None if every stage has one."""
        for stage in self.backend.fingerprints:
            if self._find_record(stage) is None:
                return stage
        return None

    def submit(self) -> str | None:
        """Submit the first stage that has no record; a failed attempt of it is replaced.

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
            retry_failed: whether a stage that failed before this call is tried again (`run`), or
                its verdict is the result of this call (`wait`, the in-cluster submitter).
            stop_on_interrupt: whether KeyboardInterrupt cancels the stage, or leaves it running
                for the next caller.
            for_seconds: how long to wait at most; None: until the run ends.

        Raises:
            StageFailed: a stage ended without a record; what it held is freed.
            StillRunning: `for_seconds` have passed; the run continues.
        """
        until = None if for_seconds is None else self.clock() + for_seconds
        results: list[StageResult] = []
        try:
            for stage in self.backend.fingerprints:
                result = self._run_stage(stage, results, retry_failed, stop_on_interrupt, until)
                results.append(result)
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

    def _verify_inputs(self, done: list[StageResult]) -> None:
        """Check the content of what the next stage reads, before machines are asked for.

        At most VERIFIED_BYTES are read. The sizes of all files were checked with the record, and
        the stage itself checks every digest.
        """
        budget = VERIFIED_BYTES
        for file in done[-1].record.outputs if done else ():
            budget -= file.size_bytes
            if budget >= 0:
                records.read_output(file, self.backend.artifacts)

    def _wait(self, stage: str, until: float | None) -> Record:
        while True:
            verdict = self.backend.poll(stage)
            self.backend.archive(stage)
            record = self._find_record(stage) if verdict.is_final else None
            if record is not None:
                return record
            if verdict.is_final and verdict.state != "Succeeded":
                self.backend.give_up(stage, verdict)
                exit_code = verdict.exit_code or 20
                raise StageFailed(verdict.sentence(stage), stage=stage, exit_code=exit_code)
            self._tell(stage, verdict)
            if until is not None and self.clock() + self.backend.poll_seconds > until:
                raise StillRunning(
                    f"run {self.backend.run_id}: stage {stage} is still under way:"
                    f" {verdict.state}: {verdict.cause}; wait again"
                )
            self.sleep(self.backend.poll_seconds)

    def _tell(self, stage: str, verdict: Verdict) -> None:
        if verdict.cause:
            self.callbacks.waiting(stage, verdict)
        progress = self.backend.progress(stage)
        if progress is not None:
            self.callbacks.progress(stage, progress)
