"""`tuneloop logs` of archived and local runs; tests/k8s/logs follows live pods."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, RunManifest, write_run_manifest
from tuneloop.artifacts.stage_logs.archive import Archive, ArchiveWriter, AttemptEnd
from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.artifacts.stage_logs.lines import Line
from tuneloop.cli.live.logs import duration_seconds, visible
from tuneloop.errors import UsageError
from tuneloop.storage import files

HELLO = "naïve 🙂 日本語"


class Run:
    """A run of two stages, with the archived log of two processes."""

    def __init__(self, artifacts: Path) -> None:
        self.at = ("--artifacts", str(artifacts))
        dataset = DatasetOfRun(key="d-v1", build_id="b", trace_count=1)
        stages = {"export": "f1", "train": "f2", "import": "f3"}
        manifest = RunManifest(run_id="r-1", seed=1, dataset=dataset, stages=stages)
        write_run_manifest(manifest, str(artifacts))
        self.prefix = layout.stage_prefix(str(artifacts), "r-1", "train")
        # The manifest stores its stages in alphabetical order.
        files.write(f"{layout.stage_prefix(str(artifacts), 'r-1', 'export')}/record.json", b"{}")

    def archive(self, rank: int, texts: list[bytes], *, pod: str = "p", age: float = 0) -> None:
        """Archive lines that are one second apart and end `age` seconds ago."""
        now = time.time_ns() - int(age * 1e9)
        lines = [Line(now - (len(texts) - i) * 10**9 + rank, text) for i, text in enumerate(texts)]
        archive = Archive(self.prefix, Attempt(rank, f"2026-{pod}", f"{pod}-{rank}", f"u{rank}"))
        writer = ArchiveWriter(archive)
        writer.add(lines)
        writer.flush()
        archive.write_end(AttemptEnd(exit_code=0))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_lines_of_several_processes_begin_with_their_rank(run: Run, tuneloop: Invoke) -> None:
    run.archive(0, [HELLO.encode(), b"", b"\xff\xfe"])
    run.archive(1, [b"b", b"  indented", b"x" * 1_000_000])
    code, out, err = tuneloop("logs", "r-1", *run.at)
    assert code == 0, err
    assert out.split("\n") == [
        *(f"[0] {HELLO}", "[1] b", "[0] ", "[1]   indented"),
        *("[0] \ufffd\ufffd", f"[1] {'x' * 1_000_000}", ""),
    ]
    code, out, err = tuneloop("logs", "r-1", "train", "--rank", 1, "--grep", "^(b|x+)$", *run.at)
    assert (code, out) == (0, f"[1] b\n[1] {'x' * 1_000_000}\n")
    code, out, _ = tuneloop("logs", "r-1", "--rank", 0, "--timestamps", *run.at)
    assert code == 0
    stamp, _, text = out.split("\n")[0].partition(" ")
    assert text == HELLO
    assert stamp.startswith("20")
    assert len(stamp) == len("2026-11-28T09:13:34.123456789Z")


def test_attempts_of_one_process_are_announced_on_stderr(run: Run, tuneloop: Invoke) -> None:
    run.archive(0, [b"one"], pod="p1", age=60)
    run.archive(0, [b"two", b"three"], pod="p2")
    files.write(f"{run.prefix}/record.json", b"{}")
    for arguments in ((), ("--follow",)):
        code, out, err = tuneloop("logs", "r-1", *arguments, *run.at)
        assert (code, out) == (0, "one\ntwo\nthree\n")
        assert err == "==> attempt 2, pod p2-0 <==\n"
    code, out, _ = tuneloop("logs", "r-1", *run.at, "--since", "1m")
    assert out == "two\nthree\n"
    code, out, _ = tuneloop("logs", "r-1", *run.at, "--since", "40s", "--grep", "e$")
    assert out == "three\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("r-1", "tarin"), 2, "stage tarin: unknown, expected one of export, train, import"),
        (("r-1", "export"), 12, "run r-1: no log of export yet"),
        (("r-1", "export", "--rank", 3), 12, "run r-1: no log of export with rank 3 yet"),
        (("r-2",), 2, "r-2: no such run, expected its manifest; check the run id and --artifacts"),
        (("r-1", "--since", "yesterday"), 2, "--since yesterday: expected a duration such as 30s"),
        (("r-1", "--grep", "("), 2, "--grep (: not a regular expression"),
    ],
)
def test_mistakes(
    run: Run, tuneloop: Invoke, arguments: tuple[Any, ...], code: int, sentence: str
) -> None:
    run.archive(0, [b"one"])
    found, out, err = tuneloop("logs", *arguments, *run.at)
    assert (found, out) == (code, "")
    assert sentence in err


def test_the_latest_stage_is_the_last_one_that_has_run(run: Run, tuneloop: Invoke) -> None:
    run.archive(0, [b"of train"])
    files.write(f"{layout.stage_prefix(run.at[1], 'r-1', 'import')}/log.txt", b"of import\n")
    assert tuneloop("logs", "r-1", *run.at)[1] == "of import\n"


def test_durations() -> None:
    texts = ("90", "30s", "10m", "1h30m", "2d")
    assert [duration_seconds(text) for text in texts] == [90, 30, 600, 5400, 172800]
    for text in ("", "10 m", "-5m", "m", "1.5h"):
        with pytest.raises(UsageError, match="expected a duration"):
            duration_seconds(text)


def test_a_progress_bar_is_its_last_state_on_a_terminal() -> None:
    bar = b" 10%|#   |\r 20%|##  |\r100%|####|\r"
    assert visible(bar, is_terminal=True) == "100%|####|"
    assert visible(bar, is_terminal=False) == " 10%|#   |\r 20%|##  |\r100%|####|"
    assert visible(b"windows\r", is_terminal=False) == "windows"
    assert visible(b"\r\r", is_terminal=True) == ""


def test_a_pipe_that_is_closed_ends_the_verb(run: Run, repository: Path) -> None:
    run.archive(0, [b"%d" % number for number in range(50_000)])
    command = [sys.executable, "-m", "tuneloop.cli", "logs", "r-1", *run.at]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_a_local_run_is_followed_while_it_runs(
    tiny_run: TinyRun, store: str, repository: Path
) -> None:
    tiny_run.change(execution__store_url=store, train__steps=30)
    cli = [sys.executable, "-m", "tuneloop.cli"]
    run_id = tiny_run.plan().run_id
    runner = subprocess.Popen(
        [*cli, "run", str(tiny_run.spec_path)], cwd=repository, stderr=subprocess.DEVNULL
    )
    train = Path(layout.stage_prefix(tiny_run.artifacts, run_id, "train"))
    deadline = time.monotonic() + 90
    while not list(train.glob("logs/*/output.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    follow = [*cli, "logs", run_id, "train", "--follow", "--artifacts", tiny_run.artifacts]
    followed = subprocess.run(follow, cwd=repository, capture_output=True, text=True, timeout=90)
    assert runner.wait(90) == 0
    assert (followed.returncode, followed.stderr) == (0, "")
    (output,) = train.glob("logs/*/output.txt")
    assert followed.stdout == output.read_text()
    assert f"stage train of {run_id}" in followed.stdout
    assert "published after" in followed.stdout.splitlines()[-1]
