"""The local backend: each stage a subprocess with the argv that its container has.

One rule: what counts is the record, not the exit code. A stage whose record is there is not
started; a stage that ends without one has failed, and running again continues.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuneloop import records, storage
from tuneloop.errors import StageFailed
from tuneloop.records import Record
from tuneloop.runs.plan import Plan, write_run_manifest
from tuneloop.specs import StageSpec

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""Between SIGTERM and SIGKILL: enough to save a checkpoint."""
LAST_LINES = 15

Progress = Callable[[str, dict[str, Any]], None]
"""Called with (stage name, what progress.json holds)."""


@dataclass(frozen=True)
class StageResult:
    """How one stage went."""

    name: str
    state: Literal["done", "cached"]
    """done: it ran now; cached: its record was there."""
    seconds: float
    """Wall time now, process start included."""
    record: Record


def run_plan(
    plan: Plan,
    checkout: Path,
    *,
    started: Callable[[str], None] = lambda name: None,
    progress: Progress = lambda name, value: None,
    finished: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Run every stage that has no record yet, in order; stop at the first that fails.

    Args:
        plan: what to run.
        checkout: working directory of the stage processes.
        started: called before a stage process starts.
        progress: called now and then while one runs.
        finished: called when a stage has its record.

    Raises:
        StageFailed: a stage ended without a record.
        KeyboardInterrupt: passed on after the stage has been asked to stop and has stopped.
    """
    write_run_manifest(plan, checkout)
    results = []
    for stage in plan.stages:
        since = time.monotonic()
        record = records.find_or_adopt(plan.artifacts, plan.run_id, stage.stage, stage.fingerprint)
        state: Literal["done", "cached"] = "cached"
        if record is None:
            started(stage.stage)
            record, state = _run_stage(stage, checkout, progress), "done"
        result = StageResult(stage.stage, state, time.monotonic() - since, record)
        results.append(result)
        finished(result)
    return results


def stage_argv(stage: StageSpec, spec_url: str) -> list[str]:
    """The command line of a stage, the interpreter apart."""
    return ["-m", "jobs", stage.stage, "--spec", spec_url]


def _run_stage(stage: StageSpec, checkout: Path, progress: Progress) -> Record:
    artifacts = stage.execution.artifacts
    prefix = records.stage_prefix(artifacts, stage.run_id, stage.stage)
    spec_url = storage.join(prefix, "spec.json")
    storage.write(spec_url, stage.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
    with tempfile.TemporaryDirectory(prefix="tuneloop-") as scratch:
        termination, stderr = Path(scratch, "termination"), Path(scratch, "stderr")
        termination.touch()
        with stderr.open("wb") as stderr_file:
            process = subprocess.Popen(
                [sys.executable, *stage_argv(stage, spec_url)],
                cwd=checkout,
                env={**os.environ, **_environment(termination)},
                stdin=subprocess.DEVNULL,
                stdout=stderr_file,
                stderr=stderr_file,
                # Ctrl-C reaches this process alone, which then asks the stage to stop.
                start_new_session=True,
            )
            code = _wait(process, stage.stage, prefix, progress)
        record = records.find(artifacts, stage.run_id, stage.stage)
        if record is None:
            raise _failure(stage.stage, code, prefix, termination, stderr)
        return record


def _environment(termination: Path) -> dict[str, str]:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {
        "TUNELOOP_TERMINATION_LOG": str(termination),
        # Compiled programs outlive the process: the second run of a shape does not compile.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(Path(cache, "tuneloop", "jax"))
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def _wait(process: subprocess.Popen[bytes], name: str, prefix: str, progress: Progress) -> int:
    """Wait for the process, showing its progress; stop it if this process is asked to stop."""
    try:
        since = time.monotonic()
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - since >= PROGRESS_SECONDS:
                since = time.monotonic()
                progress(name, _read_progress(prefix))
    finally:
        # Also on KeyboardInterrupt and on SIGTERM turned into it: nothing goes on unwatched.
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
    return process.returncode


def _read_progress(prefix: str) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        value: dict[str, Any] = json.loads(storage.read(storage.join(prefix, "progress.json")))
        return value
    return {}


def _failure(name: str, code: int, prefix: str, termination: Path, stderr: Path) -> StageFailed:
    log_url = storage.join(prefix, "log.txt")
    with contextlib.suppress(ValueError, KeyError):
        cause = json.loads(termination.read_bytes())["cause"]
        return StageFailed(f"{cause}", stage=name, stage_exit_code=code)
    if code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
        hint = " (out of memory, if nobody sent it)" if code == -signal.SIGKILL else ""
        return StageFailed(
            f"stage {name} {reason}{hint}; run again to continue", stage=name, stage_exit_code=code
        )
    tail = "\n".join(stderr.read_text("utf-8", "replace").splitlines()[-LAST_LINES:])
    return StageFailed(
        f"stage {name} ended with code {code} and no record, its log is {log_url}:\n{tail}",
        stage=name,
        stage_exit_code=code,
    )
