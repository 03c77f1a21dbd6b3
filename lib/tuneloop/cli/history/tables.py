"""Tables of runs, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneloop.history.listing import ListedRun
from tuneloop.history.units import duration

WIDE = 132
"""Columns from which a run takes one line instead of two."""


def print_runs(runs: Sequence[ListedRun]) -> None:
    """Print a list of runs to stdout: one line per run if the terminal is wide, otherwise two."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    if console.width >= WIDE:
        for title in ("run", "state", "started", "took", "dataset", "base model", "accuracy"):
            table.add_column(title, overflow="fold")
        for run in runs:
            table.add_row(*map(shown, _cells(run)))
    else:
        # People copy a run id, so the state is folded first.
        table.add_column("run\n  dataset", overflow="fold", no_wrap=True)
        for title in ("state\n  base model", "started\n  took", "accuracy"):
            table.add_column(title, overflow="fold")
        for run in runs:
            run_id, state, started, took, dataset, model, accuracy = _cells(run)
            table.add_row(
                shown(f"{run_id}\n  {dataset}"),
                shown(f"{state}\n  {model}"),
                shown(f"{started}\n  {took}"),
                shown(accuracy),
            )
    console.print(table)
    for run in runs:
        if run.problem:
            console.print(shown(f"{run.run_id}: {run.problem}"), soft_wrap=True)


def _cells(run: ListedRun) -> tuple[str, str, str, str, str, str, str]:
    current = next((stage for stage in run.stages if stage.state == "running"), None)
    state = run.state + (
        f", {current.note.rstrip('.').lower()}" if current and current.note else ""
    )
    took = duration(run.seconds) if run.seconds else "-"
    return (
        run.run_id,
        state,
        started(run.started_at),
        took,
        run.dataset or "-",
        run.model or "-",
        accuracy(run.accuracy_base, run.accuracy_tuned),
    )


def shown(text: str) -> Text:
    """Return text of a file or a name for a terminal, without control characters."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def started(moment: datetime | None) -> str:
    """Format a start in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else "-"


def accuracy(base: float | None, tuned: float | None) -> str:
    """Format the accuracy of the base and the tuned model in percent."""
    if base is None or tuned is None:
        return "-"
    return f"{100 * base:.1f} → {100 * tuned:.1f} %"
