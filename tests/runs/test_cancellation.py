"""Test that `cancel` ends local runs of other processes, and no other process, with real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun, steps_done
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.errors import DataError
from tuneloop.runs import processes
from tuneloop.runs.cancellation import cancel_local_run
from tuneloop.runs.processes import Announcement, ProcessIdentity

RUN = "tiny-0a1b2c3d"


def wait_until(holds: Callable[[], Any], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that are killed at the end of the test."""
    started = []

    def run(*argv: Any, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(list(map(str, argv)), text=True, **options)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def url_of(artifacts: Path, made: Announcement) -> Path:
    return Path(layout.run_prefix(str(artifacts), RUN), "processes", made.name)


def rewrite(artifacts: Path, made: Announcement, **changes: Any) -> Announcement:
    changed = made.model_copy(update=changes)
    url_of(artifacts, made).unlink()
    url_of(artifacts, changed).write_text(changed.model_dump_json())
    return changed


def test_a_run_of_another_process_stops_saves_and_continues(
    tiny_run: TinyRun,
    start: Callable[..., subprocess.Popen[str]],
    tuneloop: Invoke,
    repository: Path,
    store: str,
) -> None:
    tiny_run.change(train__steps=4000, execution__checkpoint_every_steps=4000)
    tiny_run.change(execution__store_url=store)
    plan = tiny_run.plan()
    at = ("--artifacts", plan.artifacts)
    code, _, err = tuneloop("cancel", plan.run_id, *at)
    assert code == 2
    assert f"run {plan.run_id}: found no run of this id below {plan.artifacts}" in err
    command = [sys.executable, "-m", "tuneloop.cli", "run", tiny_run.spec_path]
    runner = start(*command, cwd=repository, stderr=subprocess.PIPE)
    train = Path(layout.stage_prefix(plan.artifacts, plan.run_id, "train"))
    wait_until(lambda: steps_done(train) > 3, "training goes on")

    code, out, _ = tuneloop("cancel", plan.run_id, *at, "--stage", "eval")
    assert (code, out) == (0, f"{plan.run_id}: nothing is left to cancel\n")
    assert runner.poll() is None

    code, out, _ = tuneloop("cancel", plan.run_id, *at, "--json")
    found = json.loads(out)
    assert (code, found["remaining"]) == (0, [])
    assert [line.split()[-1] for line in found["ended"]] == ["train"]
    assert runner.wait(1) == 30  # it had ended when `cancel` returned
    assert "stopped; run again to continue" in runner.communicate()[1]
    steps = [int(p.name) for p in (train / "resume" / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(steps) > 3
    code, out, _ = tuneloop("cancel", plan.run_id, *at)
    assert (code, out) == (0, f"{plan.run_id}: nothing is left to cancel\n")
    code, _, err = tuneloop("cancel", plan.run_id, *at, "--stage", "tarin")
    assert code == 2
    assert "--stage tarin: unknown, expected one of export, train, eval, " in err


def test_the_stage_of_a_killed_runner_is_asked_itself(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    stage, runner = start("sleep", "60"), start("sleep", "60")
    made = processes.announce(str(tmp_path), RUN, "train", stage.pid)
    rewrite(tmp_path, made, runner=processes._identity(runner.pid))
    runner.kill()
    runner.wait()
    found = cancel_local_run(str(tmp_path), RUN, wait_seconds=0)
    assert found.ended == (f"process {stage.pid} of stage train",)
    assert stage.wait(10) == -signal.SIGTERM
    assert cancel_local_run(str(tmp_path), RUN, wait_seconds=0) == Cancellation()
    assert not list(Path(layout.run_prefix(str(tmp_path), RUN), "processes").iterdir())


def test_another_process_with_the_same_id_is_never_signalled(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    other = start("sleep", "60")
    made = processes.announce(str(tmp_path), RUN, "train", other.pid)
    reused = ProcessIdentity(pid=other.pid, started="12345")
    rewrite(tmp_path, made, runner=reused, process=reused)
    assert cancel_local_run(str(tmp_path), RUN, wait_seconds=0) == Cancellation()
    reused.send(signal.SIGKILL)  # also if it was replaced between the look and the signal
    assert other.poll() is None


def test_a_process_that_ignores_sigterm_is_named(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    deaf = start(sys.executable, "-c", code)
    wait_until(ready.exists, "the process ignores the signal")
    made = processes.announce(str(tmp_path), RUN, "train", deaf.pid)
    rewrite(tmp_path, made, runner=processes._identity(deaf.pid))
    found = cancel_local_run(str(tmp_path), RUN, wait_seconds=0.5)
    assert found.ended == (f"process {deaf.pid} of stage train",)
    assert found.remaining[0] == (
        f"process {deaf.pid}, stage train: still runs after SIGTERM; wait and cancel again, or end"
        f" it with `kill -9 {deaf.pid}`"
    )
    assert deaf.poll() is None


def test_other_machines_and_earlier_boots(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    mine = start("sleep", "60")
    made = processes.announce(str(tmp_path), RUN, "train", mine.pid)
    far = rewrite(tmp_path, made, host="knoten-ü", runner=processes._identity(mine.pid))
    (line,) = cancel_local_run(str(tmp_path), RUN, wait_seconds=0).remaining
    assert line.startswith(f"process {mine.pid} on machine knoten-ü: runs stage train; cancel")
    assert f"delete {far.name} in processes/" in line
    # After a reboot, the same id and start time mean another process.
    processes.withdraw(str(tmp_path), RUN, far)
    made = processes.announce(str(tmp_path), RUN, "train", mine.pid)
    old = rewrite(tmp_path, made, boot="another-boot", runner=processes._identity(mine.pid))
    assert cancel_local_run(str(tmp_path), RUN, wait_seconds=0) == Cancellation()
    assert not url_of(tmp_path, old).exists()
    assert mine.poll() is None


@pytest.mark.parametrize("text", ["", "{}", "{", '{"host": 3}', "\x00"])
def test_a_broken_announcement_is_an_error_with_its_place(tmp_path: Path, text: str) -> None:
    made = processes.announce(str(tmp_path), RUN, "train", os.getpid())
    url_of(tmp_path, made).write_text(text)
    with pytest.raises(DataError, match="delete the file if no process of the run is left"):
        cancel_local_run(str(tmp_path), RUN, wait_seconds=0)


def test_start_times_are_also_known_to_ps(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("sleep", "60")
    assert (known := processes._start_time_of_ps(process.pid))
    assert known.split()[3].count(":") == 2  # Sat Nov 28 10:00:00 2026
    process.kill()
    wait_until(lambda: processes._start_time(process.pid) is None, "a zombie has ended", 5)
    assert processes._start_time_of_ps(process.pid) is None
    process.wait()
    assert processes._start_time_of_ps(process.pid) is None
