"""Streams that lack characters, are full, closed or unread: the work is done all the same."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

import pytest

from tests.builders import TinyRun, letter_trace
from tests.history.trees import write_run
from tuneloop import cli
from tuneloop.cli.shared import github, terminal
from tuneloop.traces.client import TraceClient

Verb = tuple[str, ...]
Tell = Callable[..., int]
Make = Callable[[], AbstractContextManager[TextIO | None]]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Tell:
    """A function that runs a verb with other streams and returns the exit code."""
    monkeypatch.chdir(repository)

    def run(*arguments: object, **streams: TextIO | None) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["tuneloop", *map(str, arguments)])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def stored(tiny_run: TinyRun) -> list[Verb]:
    """Verbs that print a table, text, one JSON object, and many lines of data."""
    write_run(tiny_run.artifacts, "letters-00000001", dataset="sét 绿🟡")
    place = ("--artifacts", tiny_run.artifacts)
    return [
        ("runs", "list", *place),
        ("runs", "list", "--json", *place),
        ("datasets", "show", "letters-v1", *place),
        ("datasets", "export", "letters-v1", *place),
        ("eval-sets", "check", str(tiny_run.folder / "eval.jsonl")),
        ("plan", str(tiny_run.spec_path), "--json"),
        ("--help",),
    ]


def full() -> AbstractContextManager[TextIO]:
    return open("/dev/full", "w", encoding="utf-8")


def left() -> AbstractContextManager[TextIO]:
    """Return a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def closed() -> AbstractContextManager[None]:
    """Return what the interpreter makes of a stream that the shell has closed."""
    return nullcontext()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_character_that_the_encoding_lacks(
    encoding: str, tell: Tell, stored: list[Verb], tmp_path: Path
) -> None:
    for number, verb in enumerate(stored):
        plain, narrow = tmp_path / f"{number}.utf8", tmp_path / f"{number}.{encoding}"
        for path, used in ((plain, "utf-8"), (narrow, encoding)):
            with path.open("w", encoding=used) as out:
                assert tell(*verb, stdout=out) == 0
        if "--json" in verb or "show" in verb:
            assert json.loads(narrow.read_text(encoding)) == json.loads(plain.read_text("utf-8"))
        elif "export" in verb:  # files of data are UTF-8 everywhere
            assert narrow.read_bytes() == plain.read_bytes()
        else:
            assert len(narrow.read_text(encoding)) >= len(plain.read_text("utf-8"))
    table = (tmp_path / f"0.{encoding}").read_text(encoding)
    assert r"\u7eff" in table
    assert ("é" in table) == (encoding != "ascii")


def test_undecodable_arguments_are_shown(
    tell: Tell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tell("report", os.fsdecode(b"r\xfcn"), "--artifacts", tmp_path) == 12
    assert r"r\udcfcn" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [(full, 20, "No space left on device"), (left, 141, ""), (closed, 20, "it is closed")],
    ids=["full", "left", "closed"],
)
def test_standard_output_takes_nothing(
    make: Make, code: int, said: str, tell: Tell, stored: list[Verb], tmp_path: Path
) -> None:
    for verb in stored:
        with make() as out, (tmp_path / "err").open("w", encoding="utf-8") as err:
            assert tell(*verb, stdout=out, stderr=err) == code, verb
        found = (tmp_path / "err").read_text("utf-8")
        sentences = [line for line in found.splitlines() if line.startswith("tuneloop: ")]
        assert "Traceback" not in found
        assert len(sentences) == bool(said), found
        assert all(f"standard output: cannot be written ({said})" in each for each in sentences)


@pytest.mark.parametrize("make", [full, left, closed], ids=["full", "left", "closed"])
def test_nobody_reads_the_messages(
    make: Make, tell: Tell, stored: list[Verb], tmp_path: Path
) -> None:
    for verb in [*stored[::3], ("report", "none", "--artifacts", str(tmp_path)), ("no-such-verb",)]:
        with make() as err, (tmp_path / "out").open("w", encoding="utf-8") as out:
            codes = [tell(*verb, stdout=out), tell(*verb, stdout=out, stderr=err)]
        assert codes[0] == codes[1], verb


def test_a_failure_of_the_verb_itself_decides_the_exit_code(tell: Tell, tmp_path: Path) -> None:
    with full() as stream:
        code = tell("report", "none", "--artifacts", tmp_path, stdout=stream, stderr=stream)
    assert code == 12


def test_an_import_stays_imported(tell: Tell, store: str, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps(letter_trace(number)) + "\n" for number in range(3)))
    for make, code in ((full, 20), (left, 141)):
        assert (
            tell("traces", "import", file, "--store", store, stdout=make(), stderr=make()) == code
        )
    with TraceClient(store) as client:
        assert len(list(client.iter_traces())) == 3


def test_data_for_nobody_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    with left() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.protect()
        with pytest.raises(terminal.OutputLost):
            while written < 1 << 20:
                terminal.write_data(b"x" * 1024)
                written += 1024
        assert terminal.finish(0) == terminal.READER_GONE
    assert written < 1 << 15


def test_a_pipe_that_must_not_block_gets_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    found = bytearray()

    def read() -> None:
        while block := os.read(reader, 1 << 16):
            found.extend(block)

    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.protect()
        slow = threading.Timer(0.1, read)
        slow.start()
        terminal.write_data(b"x" * (1 << 20))
        assert terminal.finish(0) == 0
    slow.join(10)
    os.close(reader)
    assert len(found) == 1 << 20


def test_a_bug_has_the_exit_code_of_bugs(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tuneloop.datasets.read.list_manifest_keys", lambda artifacts: 1 / 0)
    assert tell("datasets", "list") == 10
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A step of GitHub Actions, with files that cannot be written."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for name in ("OUTPUT", "STEP_SUMMARY"):
        monkeypatch.setenv(f"GITHUB_{name}", "/dev/full")
    yield


@pytest.mark.usefixtures("step")
def test_files_of_a_step_do_not_end_a_verb(capfd: pytest.CaptureFixture[str]) -> None:
    github.set_output(run_id="letters-1")
    github.append_summary("# Report")
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "GITHUB_OUTPUT",
        "GITHUB_STEP_SUMMARY",
    ]
