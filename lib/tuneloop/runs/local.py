"""The local backend: each stage is a process with the argv and environment of its container.

A stage has succeeded once its record exists; its exit code is not trusted. A stage that ends
without a record has failed; running again continues it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import State, Verdict
from tuneloop.artifacts.progress import Progress, read_progress
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.errors import verb_exit_code
from tuneloop.runs import processes, results
from tuneloop.runs.logs.local import LocalOutput
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.plan import write_run_manifest
from tuneloop.runs.results import StageResult
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.stages import StageSpec, dump_stage_spec
from tuneloop.specs.target import Machines, Target
from tuneloop.stages.lifecycle.command import CPU_ENV, stage_argv, stage_env
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed

PROGRESS_SECONDS = 0.5
"""Seconds between two reads of a stage's heartbeat."""
GRACE_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL, enough to save a checkpoint."""
LAST_LINES = 15
"""Last lines of output shown for a failed stage that reported no cause."""
_STATES: dict[int, State] = {
    65: "DataError",
    66: "DataError",
    71: "OutOfMemory",
    75: "Transient",
    78: "ConfigError",
}
"""Exit code of a stage process -> state; other codes mean UserError, and signals Crashed."""


def run_plan(
    plan: AnyPlan,
    *,
    started: Callable[[str], None] = lambda name: None,
    progress: results.Progress = lambda name, value: None,
    finished: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Run every stage that has no record yet, in order; stop at the first that fails.

    Args:
        plan: the run.
        started: called before a stage process starts.
        progress: called with the heartbeats of a running stage.
        finished: called when a stage has its record.

    Raises:
        StageFailed: a stage ended without a record.
        KeyboardInterrupt: raised again once the running stage has stopped.
    """
    write_run_manifest(plan)
    callbacks = Callbacks(started=started, progress=progress, finished=finished)
    sequence = Sequence(LocalBackend(plan), callbacks)
    return sequence.run(retry_failed=True, stop_on_interrupt=True)


class LocalBackend:
    """One run on this machine, one process at a time."""

    poll_seconds = 0.05
    image: str | None = None

    def __init__(self, plan: AnyPlan) -> None:
        """Prepare the run; no process is started yet."""
        self.run_id, self.artifacts = plan.run_id, plan.artifacts
        self.fingerprints: Mapping[str, str] = {s.stage: s.fingerprint for s in plan.stages}
        self._specs: dict[str, StageSpec] = {stage.stage: stage for stage in plan.stages}
        self._processes: dict[str, StageProcess] = {}
        self._announced: processes.Announcement | None = None

    @staticmethod
    def code_identity(spec: AnyRunSpec, target: Target) -> str | None:
        """Return None: the stages run the code of this machine."""
        return None

    @classmethod
    def place(cls, run: AnyPlan, target: Target) -> LocalBackend:
        """Prepare a run; nothing is started."""
        return cls(run)

    def machines(self, stage: str) -> Machines:
        """Return this machine."""
        return Machines(where="local", accelerator="cpu", hosts=1, chips=0)

    def connect(self) -> None:
        """Do nothing: this machine needs no connection."""

    def save(self) -> None:
        """Do nothing: no other machine can continue these processes."""

    def exists(self, stage: str) -> bool:
        """Return whether this process has started the stage."""
        return stage in self._processes

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        """Start the stage's process."""
        self.cancel(stage)
        process = self._processes[stage] = StageProcess(self._specs[stage])
        self._announced = processes.announce(self.artifacts, self.run_id, stage, process.pid)

    def confirm(self, stage: str) -> None:
        """Do nothing: no other machine can start these processes."""

    def poll(self, stage: str) -> Verdict:
        """Return the verdict on the process, then on the record."""
        process = self._processes.get(stage)
        if process is None:
            return Verdict("Queued", f"stage {stage} is not started yet")
        code = process.poll()
        if code is None:
            return Verdict("Running", "")
        if records.find(self.artifacts, self.run_id, stage) is not None:
            return Verdict("Succeeded", "the record is published", exit_code=0)
        state = _STATES.get(code, "UserError" if code > 0 else "Crashed")
        return Verdict(state, process.failure(code), exit_code=verb_exit_code(code))

    def progress(self, stage: str) -> Progress | None:
        """Return the newest heartbeat, read at most twice a second; None in between."""
        process = self._processes.get(stage)
        return process.progress() if process else None

    def attempt(self, stage: str) -> str:
        """Return the id of the stage's process; empty if this process has started none."""
        process = self._processes.get(stage)
        return process.id if process else ""

    def archive(self, stage: str) -> None:
        """Copy the output of the stage's process to the object store."""
        process = self._processes.get(stage)
        if process is not None:
            process.log.store()

    def succeeded(self, stage: str) -> None:
        """Do nothing: a stage has succeeded once its process has ended."""

    def settle(self, stage: str) -> None:
        """Do nothing: a process ends with the one that watches it."""

    def give_up(self, stage: str, verdict: Verdict) -> None:
        """Do nothing: the process has ended, and the caller prints the verdict."""

    def cancel(self, stage: str) -> None:
        """Ask the stage's process to stop, and wait until it ends."""
        process = self._processes.pop(stage, None)
        if process is not None:
            process.stop()

    def cancel_run(self, stage: str | None = None, *, wait_seconds: float = 0.0) -> Cancellation:
        """Stop the processes of the run, or of one stage, that this backend has started.

        `cancel_local_run` stops those of other processes of this machine.
        """
        named = [name for name in self._processes if stage in (None, name)]
        running = [name for name in named if self._processes[name].poll() is None]
        for name in named:
            self.cancel(name)
        return Cancellation(tuple(f"process of stage {name}" for name in running))

    def close(self) -> None:
        """Stop the processes that still run."""
        for stage in list(self._processes):
            self.cancel(stage)
        if self._announced is not None:
            processes.withdraw(self.artifacts, self.run_id, self._announced)
            self._announced = None


class StageProcess:
    """The process of one stage and its files on this machine."""

    def __init__(self, stage: StageSpec) -> None:
        """Write the stage spec and start the process."""
        self.id = uuid.uuid4().hex
        """Random, because process ids are used again."""
        self._name = stage.stage
        self._prefix = layout.stage_prefix(stage.execution.artifacts, stage.run_id, stage.stage)
        self._progress_at = time.monotonic()
        spec_url = paths.join(self._prefix, "spec.json")
        files.write(spec_url, jsonl.dump_line(sealed(json.loads(dump_stage_spec(stage)))))
        self._scratch = tempfile.TemporaryDirectory(prefix="tuneloop-")
        self._termination = Path(self._scratch.name, "termination")
        self.log = LocalOutput(self._prefix, Path(self._scratch.name))
        self._termination.touch()
        with self.log.path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *stage_argv(stage, spec_url)],
                # Import the installed package even if the current folder holds another one.
                env={
                    **os.environ,
                    "PYTHONSAFEPATH": "1",
                    **process_env(self._termination, os.environ),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C reaches only this process, which then asks the stage to stop.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        code = self._process.poll()
        if code is not None:
            self.log.end(code)
        return code

    def progress(self) -> Progress | None:
        """Return the newest heartbeat, read at most twice a second; None in between."""
        if time.monotonic() - self._progress_at < PROGRESS_SECONDS:
            return None
        self._progress_at = time.monotonic()
        return read_progress(self._prefix)

    def stop(self) -> None:
        """Stop the process, with time to save a checkpoint, and delete its scratch files."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
            self.log.end(self._process.wait())
        finally:
            self._scratch.cleanup()

    def failure(self, code: int) -> str:
        """Return why the process ended without a record: its message, a signal or its output."""
        with contextlib.suppress(ValueError, KeyError):
            return str(json.loads(self._termination.read_bytes())["cause"])
        if code < 0:
            reason = f"was killed by {signal.Signals(-code).name}"
            hint = " (out of memory, if no user sent it)" if code == -signal.SIGKILL else ""
            return f"stage {self._name} {reason}{hint}; run again to continue"
        output = self.log.path.read_bytes().decode("utf-8", "replace")
        tail = "\n".join(output.splitlines()[-LAST_LINES:])
        return (
            f"stage {self._name} ended with code {code} and no record, its log is"
            f" {paths.join(self._prefix, 'log.txt')}:\n{tail}"
        )


def process_env(termination: Path, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a container would set, with folders of this machine.

    Args:
        termination: file for the final error of the stage.
        own: environment of this process; JAX_* variables that the user has set are kept.
    """
    env = {**stage_env(paths.cache_folder(own), str(termination)), **CPU_ENV}
    return {
        name: own.get(name, value) if name.startswith("JAX_") else value
        for name, value in env.items()
    }
