"""The local backend: each stage a subprocess with the argv and environment of its container.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from tuneloop import resources
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.errors import StageFailed, verb_exit_code
from tuneloop.k8s.rendering.manifests import FOLDER, load_table
from tuneloop.runs.plan import Plan, write_run_manifest
from tuneloop.runs.results import Progress, StageResult, read_progress
from tuneloop.specs.cluster import AcceleratorRequest
from tuneloop.specs.stages import StageSpec, dump_stage_spec
from tuneloop.stages import reuse
from tuneloop.stages.command import stage_argv, stage_env
from tuneloop.storage import files, paths

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""Between SIGTERM and SIGKILL: enough to save a checkpoint."""
LAST_LINES = 15


def run_plan(
    plan: Plan,
    *,
    started: Callable[[str], None] = lambda name: None,
    progress: Progress = lambda name, value: None,
    finished: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Run every stage that has no record yet, in order; stop at the first that fails.

    Args:
        plan: what to run.
        started: called before a stage process starts.
        progress: called now and then while one runs.
        finished: called when a stage has its record.

    Raises:
        StageFailed: a stage ended without a record.
        KeyboardInterrupt: passed on after the stage has been asked to stop and has stopped.
    """
    write_run_manifest(plan)
    shape_env = load_table(str(resources.data_path(FOLDER))).shape(AcceleratorRequest()).env
    results = []
    for stage in plan.stages:
        since = time.monotonic()
        record = reuse.find_or_adopt(plan.artifacts, plan.run_id, stage.stage, stage.fingerprint)
        state: Literal["done", "cached"] = "cached"
        if record is None:
            started(stage.stage)
            record, state = _run_stage(stage, shape_env, progress), "done"
        result = StageResult(stage.stage, state, time.monotonic() - since, record)
        results.append(result)
        finished(result)
    return results


def _run_stage(stage: StageSpec, shape_env: Mapping[str, str], progress: Progress) -> Record:
    artifacts = stage.execution.artifacts
    prefix = layout.stage_prefix(artifacts, stage.run_id, stage.stage)
    spec_url = paths.join(prefix, "spec.json")
    files.write(spec_url, dump_stage_spec(stage))
    with tempfile.TemporaryDirectory(prefix="tuneloop-") as scratch:
        termination, stderr = Path(scratch, "termination"), Path(scratch, "stderr")
        termination.touch()
        with stderr.open("wb") as stderr_file:
            process = subprocess.Popen(
                [sys.executable, *stage_argv(stage, spec_url)],
                env={**os.environ, **process_env(termination, shape_env)},
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


def process_env(termination: Path, shape_env: Mapping[str, str]) -> dict[str, str]:
    """What a container's environment sets, with this machine's folders.

    What people have set for JAX themselves stands: a cache they keep, a GPU they have.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    env = {**stage_env(cache, str(termination)), **shape_env}
    return {
        name: os.environ.get(name, value) if name.startswith("JAX_") else value
        for name, value in env.items()
    }


def _wait(process: subprocess.Popen[bytes], name: str, prefix: str, progress: Progress) -> int:
    """Wait for the process, showing its progress; stop it if this process is asked to stop."""
    try:
        since = time.monotonic()
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - since >= PROGRESS_SECONDS:
                since = time.monotonic()
                progress(name, read_progress(prefix))
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


def _failure(name: str, code: int, prefix: str, termination: Path, stderr: Path) -> StageFailed:
    log_url = paths.join(prefix, "log.txt")
    with contextlib.suppress(ValueError, KeyError):
        cause = json.loads(termination.read_bytes())["cause"]
        return StageFailed(f"{cause}", stage=name, exit_code=verb_exit_code(code))
    if code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
        hint = " (out of memory, if nobody sent it)" if code == -signal.SIGKILL else ""
        return StageFailed(
            f"stage {name} {reason}{hint}; run again to continue",
            stage=name,
            exit_code=verb_exit_code(code),
        )
    tail = "\n".join(stderr.read_text("utf-8", "replace").splitlines()[-LAST_LINES:])
    return StageFailed(
        f"stage {name} ended with code {code} and no record, its log is {log_url}:\n{tail}",
        stage=name,
        exit_code=verb_exit_code(code),
    )
