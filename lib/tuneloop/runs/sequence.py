"""The loop on a cluster: a stage is created when the record of the one before it verifies.

One rule: whoever runs this keeps no state. Records say what is done, the API server what is under
way, so it can be killed and started anywhere, and two at once do no harm: the second adopts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.submission import Submission, SubmittedStage, name_of
from tuneloop.errors import StageFailed, StillRunning
from tuneloop.k8s.diagnosis.diagnose import Verdict
from tuneloop.k8s.watch import StageWatch, has_ended
from tuneloop.runs.results import Progress, StageResult
from tuneloop.stages import reuse

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

VERIFIED_BYTES = 2**30
"""How much a supervisor reads to check it, perhaps from far away."""

OwnerReference = dict[str, str]


@dataclass(frozen=True)
class View:
    """Who is told what goes on; each is called with the stage's name first."""

    started: Callable[[str], None] = lambda name: None
    """The stage is asked of the cluster."""
    waiting: Callable[[str, Verdict], None] = lambda name, verdict: None
    """What it waits for, at every poll."""
    progress: Progress = lambda name, value: None
    """What progress.json holds, at every poll of a running stage."""
    finished: Callable[[StageResult], None] = lambda result: None
    """It has its record."""


@dataclass(frozen=True)
class Sequence:
    """One run on one cluster."""

    submission: Submission
    cluster: Cluster
    poll_seconds: float = 5.0
    owner: OwnerReference | None = None
    """What the stages' objects are deleted with; None: nothing."""
    view: View = field(default_factory=View)

    def submit(self) -> str | None:
        """Create the first stage that has no record.

        Objects of earlier tries that have failed make room for new ones: this is a new try.

        Returns:
            The stage's name; None if every stage has its record.
        """
        for stage in self.submission.stages:
            if self._standing_record(stage) is None:
                self._watch(stage).create(replace_failed=True)
                return stage.name
        return None

    def detach(self) -> str | None:
        """Create the Job that holds this sequence in the cluster, with its account and Role.

        Returns:
            The name of the first stage that it will create; None if there is nothing left to do.
        """
        first = next((s for s in self.submission.stages if not self._standing_record(s)), None)
        if first is None:
            return None
        self._watch(first).remove_failed()
        *shared, job = self.submission.submitter
        for document in shared:
            self.cluster.ensure(document)
        standing = self.cluster.get("Job", name_of(job))
        if standing is not None and has_ended(standing):
            # Of an earlier try; what it owned goes with it.
            self.cluster.delete("Job", name_of(job), uid=standing["metadata"]["uid"])
        self.cluster.create(job)
        return first.name

    def run(
        self, *, retry_failed: bool, stop_on_interrupt: bool, for_seconds: float | None = None
    ) -> list[StageResult]:
        """Create stage after stage and wait for each record.

        Args:
            retry_failed: whether a stage that has failed before this call is tried again (`run`),
                or its verdict is this call's result (`wait`, the submitter).
            stop_on_interrupt: whether KeyboardInterrupt frees what the stage holds, or leaves it
                to whoever goes on.
            for_seconds: how long to wait at most; None: until the run ends.

        Raises:
            StageFailed: a stage came to an end without a record; what it held is freed.
            StillRunning: `for_seconds` are over; everything goes on, or can be gone on with.
        """
        until = None if for_seconds is None else time.monotonic() + for_seconds
        results: list[StageResult] = []
        for stage in self.submission.stages:
            since = time.monotonic()
            record = self._standing_record(stage)
            state: Literal["done", "cached"] = "cached"
            if record is None:
                self._verify_inputs(results)
                self.view.started(stage.name)
                watch = self._watch(stage)
                try:
                    watch.create(replace_failed=retry_failed)
                    record, state = self._wait(watch, until), "done"
                except KeyboardInterrupt:
                    if stop_on_interrupt:
                        watch.free()
                    raise
            result = StageResult(stage.name, state, time.monotonic() - since, record)
            results.append(result)
            self.view.finished(result)
        return results

    def _standing_record(self, stage: SubmittedStage) -> Record | None:
        submission = self.submission
        return reuse.find_or_adopt(
            submission.artifacts, submission.run_id, stage.name, stage.fingerprint
        )

    def _verify_inputs(self, done: list[StageResult]) -> None:
        """Check the content of what the next stage reads, before machines are asked for.

        Up to VERIFIED_BYTES of it; the sizes of all files were checked with the record, and the
        stage itself checks every digest.
        """
        budget = VERIFIED_BYTES
        for file in done[-1].record.outputs if done else ():
            budget -= file.size_bytes
            if budget >= 0:
                records.read_output(file, self.submission.artifacts)

    def _watch(self, stage: SubmittedStage) -> StageWatch:
        return StageWatch(self.cluster, self.submission, stage, self.owner)

    def _wait(self, watch: StageWatch, until: float | None) -> Record:
        name = watch.stage.name
        while True:
            verdict = watch.look()
            if watch.record is not None:
                return watch.record
            if verdict.is_final:
                watch.archive(verdict)
                watch.free()
                raise StageFailed(
                    f"stage {name}: {verdict.state}: {verdict.cause}; {verdict.fix}",
                    stage=name,
                    exit_code=verdict.exit_code or 20,
                )
            self.view.waiting(name, verdict)
            if watch.progress:
                self.view.progress(name, watch.progress)
            if until is not None and time.monotonic() + self.poll_seconds > until:
                raise StillRunning(
                    f"run {self.submission.run_id}: stage {name} is still under way:"
                    f" {verdict.state}: {verdict.cause}; wait again"
                )
            time.sleep(self.poll_seconds)
