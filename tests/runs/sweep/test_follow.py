"""Test the live table of a sweep: in place on a terminal, one line per change elsewhere."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tests.builders import TinyRun
from tests.history.trees import heartbeat, write_manifest
from tuneloop.artifacts.sweeps.store import Member, MemberState, SweepManifest, save_state
from tuneloop.cli.control.sweeps import follow_sweep

LABEL = "learning_rate=0.01 method={'kind': 'lora', 'rank': 8, 'targets': ['é 🟡']}"


def shown(artifacts: str, *, terminal: bool) -> str:
    runs = ("tiny-1", "tiny-2")
    manifest = SweepManifest(
        sweep_id="tiny-sweep-0a1b2c3d",
        settings={},
        members=[
            Member(number=at, label=LABEL, values={}, run_id=run_id, chips={})
            for at, run_id in enumerate(runs, start=1)
        ],
    )
    for run_id in runs:
        write_manifest(artifacts, run_id)
    looks = 0

    def later(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            now = datetime.now(UTC)
            heartbeat(artifacts, "tiny-1", "export", now, step=12, total=50)
        elif looks == 3:
            for run_id, state in zip(runs, ("done", "stopped early"), strict=True):
                value = MemberState.model_validate({"run_id": run_id, "state": state})
                save_state(value, artifacts, manifest.sweep_id)
        assert looks < 5, "it ends with the last member"

    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80, highlight=False)
    follow_sweep(manifest, artifacts, console=console, sleep=later)
    assert looks == 3
    return output.getvalue()


def test_a_pipe_gets_a_line_per_change_and_the_table(tiny_run: TinyRun, capsys: object) -> None:
    lines = shown(tiny_run.artifacts, terminal=False).splitlines()
    assert lines == ["member 1: export", "member 1: done", "member 2: stopped early"]


def test_a_terminal_shows_the_table_in_place(tiny_run: TinyRun) -> None:
    text = shown(tiny_run.artifacts, terminal=True)
    for part in ("to run", "export step", "stopped", "tiny-sweep-0a1b2c3d"):
        assert part in text
    assert "member 1:" not in text
    lines = Text.from_ansi(text.replace("\r", "\n")).plain.splitlines()
    assert max(map(cell_len, lines)) <= 80
