"""The output of local stage processes, with artifacts on this machine and on an object store."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tuneloop.errors import Transient
from tuneloop.runs.logs import local, reader
from tuneloop.runs.logs.follow import StageLog
from tuneloop.runs.logs.local import LocalOutput
from tuneloop.storage import files


@pytest.fixture(params=["file", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "a")
    return place


def output_of(artifacts: str, tmp_path: Path) -> LocalOutput:
    return LocalOutput(f"{artifacts}/training_runs/r/train", tmp_path)


def write(output: LocalOutput, data: bytes) -> None:
    with output.path.open("ab") as file:
        file.write(data)


def read(artifacts: str) -> list[bytes]:
    return [each.line.text for each in StageLog(artifacts, "r", "train").lines()]


def test_output_is_read_while_it_grows(
    artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STORE_SECONDS", 0.0)
    output = output_of(artifacts, tmp_path)
    assert read(artifacts) == []
    write(output, "naïve 🙂\nsame\nsame\nno".encode())
    output.store()
    log = StageLog(artifacts, "r", "train")
    first = ["naïve 🙂".encode(), b"same", b"same"]
    assert [each.line.text for each in log.lines()] == first
    write(output, b" end")
    output.end(-9)
    output.end(0)  # only the first call counts
    assert [each.line.text for each in log.lines()] == [b"no end"]
    assert read(artifacts) == [*first, b"no end"]
    assert [each for each in log.follow() if each] == []


def test_each_start_is_an_attempt_of_its_own(artifacts: str, tmp_path: Path) -> None:
    for number in range(3):
        output = output_of(artifacts, tmp_path / str(number))
        write(output, b"attempt %d\n" % number)
        output.end(1)
    lines = list(StageLog(artifacts, "r", "train").lines())
    assert [(each.number, each.line.text) for each in lines] == [
        (number + 1, b"attempt %d" % number) for number in range(3)
    ]


def test_output_longer_than_a_block(
    artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 1000)
    output = output_of(artifacts, tmp_path)
    texts = [b"%d" % number * (number % 50) for number in range(1000)]
    write(output, b"".join(text + b"\n" for text in texts))
    output.end(0)
    assert read(artifacts) == texts


def test_a_line_longer_than_a_block_is_one_line(
    artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 1000)
    output = output_of(artifacts, tmp_path)
    write(output, b"a\n" + b"x" * 5500 + b"\nb\n")
    output.end(0)
    assert read(artifacts) == [b"a", b"x" * 5500, b"b"]


def test_a_store_that_is_down_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(url: str, data: bytes) -> None:
        raise Transient(f"{url}: the store answers 503")

    output = output_of(f"memory://{uuid.uuid4().hex}", tmp_path)
    write(output, b"a\n")
    monkeypatch.setattr(files, "write", refuse)
    output.end(0)
    assert "the log is not stored: " in caplog.text
