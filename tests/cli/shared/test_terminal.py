"""Escape sequences of stored text do not reach a terminal; JSON keeps its value."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from tests.builders import letter_trace
from tests.history.trees import write_manifest, write_run
from tuneloop import cli
from tuneloop.cli.live.console import make_console
from tuneloop.cli.shared.terminal import protect
from tuneloop.traces.client import TraceClient

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\ré日本 😀"
HARMFUL = re.compile(r"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\r(?!\n)")
"""All control characters but line ends and the colours that a table has itself."""

Terminal = Callable[..., str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Terminal]:
    """A function that runs a verb on a pseudo-terminal and returns what the terminal receives."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")

    def shown(*arguments: object) -> str:
        def call() -> None:
            monkeypatch.setattr(sys, "argv", ["tuneloop", *map(str, arguments)])
            with pytest.raises(SystemExit):
                cli.main()

        return received(call, monkeypatch)

    yield shown


def received(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    master, slave = pty.openpty()
    tty.setraw(slave)
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunks.append(os.read(master, 65536))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with monkeypatch.context() as patch, open(slave, "w", encoding="utf-8") as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        call()
        sys.stdout.flush()
    reader.join(5)
    os.close(master)
    return b"".join(chunks).decode()


@pytest.mark.parametrize(
    "verb",
    [
        ("eval-sets", "check", EVIL),
        ("datasets", "show", EVIL),
        ("runs", "show", EVIL),
        ("report", EVIL),
        ("logs", EVIL),
        ("models", "show", EVIL),
        ("plan", EVIL),
        ("traces", "import", "x", "--format", EVIL),
        (EVIL,),
        ("runs", "list", f"--{EVIL}"),
    ],
    ids=lambda verb: " ".join(map(ascii, verb)),
)
def test_sentences_about_hostile_names(terminal: Terminal, verb: tuple[str, ...]) -> None:
    shown = terminal(*verb)
    assert not HARMFUL.search(shown), ascii(shown)
    assert "owned" in shown


def test_tables_and_json_of_hostile_runs(terminal: Terminal, tmp_path: Path) -> None:
    root = str(tmp_path / "artifacts")
    write_run(root, "letters-00000001", dataset=f"set{EVIL}")
    write_manifest(root, f"run{EVIL}")
    table = terminal("runs", "list", "--artifacts", root)
    assert not HARMFUL.search(table), ascii(table)
    shown = terminal("runs", "list", "--artifacts", root, "--json")
    assert not HARMFUL.search(shown), ascii(shown)
    assert {run["dataset"] for run in json.loads(shown)["runs"]} >= {f"set{EVIL}"}


def test_exported_traces_keep_their_value(terminal: Terminal, store: str) -> None:
    with TraceClient(store) as client:
        client.post_batch([letter_trace(1) | {"prompt": EVIL}], "one")
    shown = terminal("traces", "export", "--store", store)
    assert not HARMFUL.search(shown), ascii(shown)
    assert json.loads(shown)["prompt"] == EVIL


def test_consoles_keep_their_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        protect()
        make_console(force_terminal=True, color_system="standard").print(
            f"a{EVIL}b", style="red", markup=False
        )

    shown = received(call, monkeypatch)
    assert "\x1b[31ma" in shown
    assert not HARMFUL.search(shown), ascii(shown)


def test_files_receive_every_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8", newline="") as file:
        monkeypatch.setattr(sys, "stdout", file)
        protect()
        typer.echo(EVIL, color=True)
    assert (tmp_path / "out").read_bytes() == f"{EVIL}\n".encode()
