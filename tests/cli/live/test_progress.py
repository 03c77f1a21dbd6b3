from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.progress import Progress as Heartbeat
from tuneloop.cli.live.progress import Progress, describe, duration
from tuneloop.cli.shared.display import print_status
from tuneloop.runs.status import StageStatus


def beat(step: int | None, total: int | None = 50_000, **values: Any) -> Heartbeat:
    return Heartbeat(updated_at="2026-11-28T00:00:00+00:00", step=step, total=total, **values)


class Screen:
    """A view with a clock of its own, and what it has written."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.seconds, self.out = 0.0, io.StringIO()
        console = Console(
            file=self.out, width=80, force_terminal=is_terminal, highlight=False, no_color=True
        )
        self.view = Progress(quiet=False, console=console, clock=lambda: self.seconds)

    def text(self) -> str:
        return self.out.getvalue()


@pytest.mark.parametrize(
    ("heartbeat", "text"),
    [
        (beat(None), ""),
        (beat(0), "0/50,000"),
        (beat(7, None), "7"),
        (
            beat(1200, rate_per_second=3.4, loss=1.23456),
            "1,200/50,000  3.4/s  3h59m left  loss 1.235",
        ),
        (beat(50_000, rate_per_second=3.4), "50,000/50,000  3.4/s"),
        (beat(10, 20, rate_per_second=0.4), "10/20  2.5 s each  25s left"),
        (beat(10, 20, rate_per_second=1 / 400), "10/20  6m40s each  1h07m left"),
        (beat(10, rate_per_second=12_345.6), "10/50,000  12,346/s  4s left"),
        (beat(10, 20, rate_per_second=None, loss=float("nan")), "10/20  loss nan"),
    ],
)
def test_a_heartbeat_in_one_line(heartbeat: Heartbeat, text: str) -> None:
    assert describe(heartbeat) == text


def test_durations() -> None:
    given = (0.2, 59.4, 59.6, 754, 3599.6, 11_100, 86_399, 187_200)
    assert [duration(each) for each in given] == [
        *("1s", "59s", "1m00s", "12m34s", "1h00m", "3h05m", "1d00h", "2d04h")
    ]


def test_on_a_pipe_one_line_a_minute() -> None:
    screen = Screen(is_terminal=False)
    with screen.view as view:
        view.started("train")
        for step in range(0, 361):
            screen.seconds = step / 2
            view.progress("train", beat(step, rate_per_second=2.0, loss=0.5))
    assert screen.text().splitlines() == [
        "train    120/50,000  2/s  6h56m left  loss 0.5",
        "train    240/50,000  2/s  6h55m left  loss 0.5",
        "train    360/50,000  2/s  6h54m left  loss 0.5",
    ]


def test_a_cause_that_changes_at_every_poll_is_one_line_a_minute() -> None:
    screen = Screen(is_terminal=False)
    with screen.view as view:
        view.started("train")
        for number in range(30):
            screen.seconds = 5.0 * number
            view.waiting("train", Verdict("Queued", f"position {number} in the queue"))
        view.waiting("train", Verdict("Running", "has started"))
    assert screen.text().splitlines() == [
        "train    Queued: position 0 in the queue",
        "train    Queued: position 12 in the queue",
        "train    Queued: position 24 in the queue",
        "train    Running: has started",
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_on_a_terminal_a_bar_with_everything_fits(width: int) -> None:
    screen = Screen(is_terminal=True)
    screen.view._console.width = width
    with screen.view as view:
        view.started("import")
        view.progress("import", beat(123_456, 999_999, rate_per_second=0.5, loss=12.345))
        view._bar.refresh()
        view.line("a line above")
    frames = [line.split("\x1b")[0].rstrip() for line in screen.text().splitlines()]
    assert max(map(len, frames)) <= width
    bar = next(line for line in frames if "123,456" in line)
    assert "123,456/999,999" in bar
    if width == 80:
        assert "2 s each" in bar
        assert "left" in bar
        assert "loss 12.35" in bar or "loss 12.34" in bar


def test_status_shows_how_fast_the_running_stage_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    waits = "the queue tuneloop admits no workload of 4 chips before another one ends; " * 2
    print_status(
        "run-12345678",
        [
            StageStatus("export", "done"),
            StageStatus(
                "train",
                "Running",
                step="1200/50000",
                rate_per_second=3.4,
                seconds_left=14_000.0,
                loss=1.2345,
            ),
            StageStatus("eval", "Queued", waits),
        ],
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "1200/50000  3.4/s  3h53m left  loss 1.234" in lines[3]
