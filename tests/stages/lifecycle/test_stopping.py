from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders import REPOSITORY
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.lifecycle.contract import load_stage_spec
from tuneloop.stages.lifecycle.stopping import StopOnSignal

STUCK = """
import ctypes, os, sys
from tuneloop.stages.lifecycle.contract import run_stage

def run(spec, stage):
    os.write(1, b"working\\n")
    # Like a compilation, this is C code in which Python runs no signal handler.
    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

sys.exit(run_stage("export", sys.argv[1], run))
"""


@pytest.fixture
def spec_url(tiny_run: Any) -> str:
    url = str(tiny_run.folder / "export.json")
    Path(url).write_text(tiny_run.plan().stages[0].model_dump_json())
    return url


@pytest.fixture
def stage(spec_url: str) -> Any:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return Stage(load_stage_spec(spec_url), started_at=now, attempt="one")


def test_a_stage_that_stops_by_itself_is_left_alone(stage: Stage) -> None:
    left = threading.Event()
    with StopOnSignal(stage, left.set, patience_seconds=0.1):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stage.should_stop()
    assert not left.wait(0.3)


def test_a_stage_that_does_not_react_is_ended(stage: Stage) -> None:
    left = threading.Event()
    with StopOnSignal(stage, left.set, patience_seconds=0.1):
        os.kill(os.getpid(), signal.SIGINT)
        assert left.wait(10)


def test_a_stage_that_saves_its_work_gets_the_time_for_it(stage: Stage) -> None:
    left = threading.Event()
    stage.holds_unsaved_work = True
    with StopOnSignal(stage, left.set, patience_seconds=0.1):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not left.wait(1.5)
        stage.holds_unsaved_work = False
        assert left.wait(10)


def test_wakeups_are_given_back(stage: Stage) -> None:
    before = signal.set_wakeup_fd(-1)
    with StopOnSignal(stage, lambda: None):
        pass
    assert signal.set_wakeup_fd(before) == -1


def test_in_the_middle_of_c_code_a_signal_ends_the_stage_as_transient(
    spec_url: str, tmp_path: Path
) -> None:
    termination = tmp_path / "termination"
    termination.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, spec_url],
        cwd=REPOSITORY,
        env={**os.environ, "TUNELOOP_TERMINATION_LOG": str(termination)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert 5 < time.monotonic() - sent < 20
    assert "stopped by a signal" in json.loads(termination.read_bytes())["cause"]
    process.stdout.close()
