"""Progress of a verb on stderr: a bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from tuneloop.cli.live.console import make_console

if TYPE_CHECKING:
    import rich.progress

    from tuneloop.artifacts import progress
    from tuneloop.artifacts.evaluation.verdict import Verdict
    from tuneloop.runs.results import StageResult
    from tuneloop.runs.sequence import Callbacks

LINE_SECONDS = 60.0
"""Seconds between two lines about the same state, where there is no bar."""


class Progress:
    """Shows the stages of a run while they run."""

    def __init__(
        self,
        *,
        quiet: bool,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the bar.

        Args:
            quiet: whether to show nothing.
            console: console to write to; None means stderr.
            clock: returns seconds.
        """
        import rich.progress  # a third of this module's import time, and tables do not need it

        self._console = console or make_console(stderr=True, quiet=quiet)
        self._has_bar = not quiet and (console or sys.stderr.isatty()) and self._console.is_terminal
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description:8}"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[note]}"),
            rich.progress.TimeElapsedColumn(),
            console=self._console,
            disable=not self._has_bar,
            transient=True,
            expand=True,
        )
        self._clock = clock
        self._task: rich.progress.TaskID | None = None
        self._last: tuple[str, str] | None = None
        self._line_at = 0.0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning, also if nothing else is shown; another thread may call this."""
        console = make_console(stderr=True) if self._console.quiet else self._console
        console.print(f"warning: {text}", markup=False, soft_wrap=True)

    def started(self, name: str) -> None:
        """Show that a stage starts."""
        self._task = self._bar.add_task(name, total=None, note="starting")
        self._line_at = self._clock()

    def waiting(self, name: str, verdict: Verdict) -> None:
        """Show the verdict on a stage when its state changes, or another cause once a minute."""
        text = f"{name:8} {verdict.state}: {verdict.cause}"
        is_new_state = self._last is None or self._last[0] != verdict.state
        has_changed = self._last is None or self._last[1] != text
        if is_new_state or (has_changed and self._is_due()):
            self._last, self._line_at = (verdict.state, text), self._clock()
            self.line(text)

    def progress(self, name: str, value: progress.Progress) -> None:
        """Show the heartbeat of a running stage."""
        note = describe(value)
        if self._task is not None and value.total is not None:
            self._bar.update(self._task, completed=value.step, total=value.total, note=note)
        if not self._has_bar and note and self._is_due():
            self._line_at = self._clock()
            self.line(f"{name:8} {note}")

    def bar(self, name: str, done: int, total: int) -> None:
        """Show the progress of work in this process."""
        note = f"{done:,}/{total:,}"
        if self._task is None:
            self._task = self._bar.add_task(name, total=total, note=note)
        self._bar.update(self._task, completed=done, note=note)

    def finished(self, result: StageResult) -> None:
        """Show that a stage is done."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._last = None
        self.line(f"{result.name:8} {result.state:6} {result.seconds:5.1f} s")

    def _is_due(self) -> bool:
        return self._clock() - self._line_at >= LINE_SECONDS


def sequence_callbacks(view: Progress) -> Callbacks:
    """Return the callbacks that show a sequence in this view."""
    from tuneloop.runs.sequence import Callbacks

    return Callbacks(view.started, view.waiting, view.progress, view.finished)


def describe(value: progress.Progress) -> str:
    """Return a heartbeat in one line, such as `1,200/50,000  3.4/s  3h59m left  loss 1.234`.

    Rate and remaining time are left out as long as they are unknown.
    """
    if value.step is None:
        return ""
    step = f"{value.step:,}/{value.total:,}" if value.total is not None else f"{value.step:,}"
    pace = describe_pace(value.rate_per_second, value.seconds_left, value.loss)
    return f"{step}  {pace}" if pace else step


def describe_pace(rate: float | None, seconds_left: float | None, loss: float | None) -> str:
    """Return what is known of rate, remaining time and loss, such as `3.4/s  12m left`."""
    parts = []
    if rate:
        parts.append(_rate(rate))
    if seconds_left:
        parts.append(f"{duration(seconds_left)} left")
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    return "  ".join(parts)


def _rate(per_second: float) -> str:
    """Return a rate with three digits, as seconds per unit if it is slow."""
    if per_second >= 1:
        return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"
    return (
        f"{1 / per_second:.3g} s each" if per_second > 0.01 else f"{duration(1 / per_second)} each"
    )


def duration(seconds: float) -> str:
    """Return seconds as text with two units at most, such as 45s, 12m30s, 3h05m or 2d04h."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02}h"
