"""Tables of runs, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from tuneloop.cli.live.console import make_console
from tuneloop.history.comparison import Comparison
from tuneloop.history.cost import account
from tuneloop.history.detail import RunDetail
from tuneloop.history.garbage import Garbage
from tuneloop.history.grouping.listing import ListedGroup
from tuneloop.history.listing import ListedRun
from tuneloop.history.units import duration, size
from tuneloop.history.usage import Usage

WIDE = 132
"""Columns from which a run takes one line instead of two."""


def print_runs(runs: Sequence[ListedRun]) -> None:
    """Print a list of runs to stdout: one line per run if the terminal is wide, otherwise two."""
    console = make_console()
    table = Table(box=None, pad_edge=False)
    if console.width >= WIDE:
        for title in ("run", "state", "started", "took", "dataset", "base model", "accuracy"):
            table.add_column(title, overflow="fold")
        has_groups = any(run.member_of for run in runs)
        if has_groups:
            table.add_column("part of", overflow="fold")
        for run in runs:
            places = [f"{each.group}: {each.place}" for each in run.member_of]
            part = ["\n".join(places)] if has_groups else []
            table.add_row(*map(shown, (*_cells(run), *part)))
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
            for each in run.member_of:
                table.add_row(shown(f"  {each.group}"), shown(f"  {each.place}"))
    console.print(table)
    for run in runs:
        if run.problem:
            console.print(shown(f"{run.run_id}: {run.problem}"), soft_wrap=True)


def print_groups(groups: Sequence[ListedGroup]) -> None:
    """Print a list of sweeps and rounds to stdout."""
    table = Table(box=None, pad_edge=False)
    table.add_column("id", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for title in ("runs", "finished", "running", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("started", no_wrap=True)
    for each in groups:
        counts = map(str, (each.runs, each.finished, each.running, each.failed))
        table.add_row(shown(each.id), each.kind, *counts, started(each.started_at))
    make_console().print(table)


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


def print_usage(usage: Usage, limit: int) -> None:
    """Print the bytes by kind and by run to stdout."""
    console = make_console()
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    table.add_column("size", justify="right")
    table.add_column("objects", justify="right")
    for kind, (size_bytes, objects) in usage.by_kind.items():
        table.add_row(kind, size(size_bytes), f"{objects:,}")
    table.add_row("total", size(usage.size_bytes), f"{sum(n for _, n in usage.by_kind.values()):,}")
    console.print(table)
    runs = Table(box=None, pad_edge=False)
    runs.add_column("run", overflow="fold", no_wrap=True)
    runs.add_column("size", justify="right")
    runs.add_column("of which", overflow="fold")
    for run, kinds in list(usage.by_run.items())[:limit]:
        largest = ", ".join(f"{kind} {size(n)}" for kind, n in list(kinds.items())[:3])
        runs.add_row(shown(run), size(sum(kinds.values())), largest)
    console.print()
    console.print(runs)
    if len(usage.by_run) > limit:
        console.print(f"and {len(usage.by_run) - limit} more; --limit shows more", markup=False)


def print_garbage(found: Sequence[Garbage], others: Sequence[Garbage], *, deleted: bool) -> None:
    """Print garbage to stdout: what was or would be deleted, then the kinds that are not chosen."""
    console = make_console()
    table = Table(box=None, pad_edge=False)
    table.add_column("what", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("changed", no_wrap=True)
    table.add_column("why", overflow="fold")
    for each in found:
        day = each.modified.strftime("%Y-%m-%d") if each.modified else "-"
        table.add_row(shown(each.path), size(each.size_bytes), day, shown(each.reason))
    if found:
        console.print(table)
    total = f"{len(found)} found, {size(sum(each.size_bytes for each in found))}"
    said = f"{total}: deleted" if deleted else f"{total}; nothing was deleted, add --delete"
    console.print(said if found else "nothing to delete", markup=False)
    for kind in dict.fromkeys(each.kind for each in others):
        chosen = [each for each in others if each.kind == kind]
        text = f"not chosen: {len(chosen)} {kind}, {size(sum(each.size_bytes for each in chosen))}"
        console.print(f"{text}; --kind {kind} adds them", markup=False)


def print_run(detail: RunDetail) -> None:
    """Print one run to stdout."""
    console = make_console()
    for title, text in detail.facts:
        console.print(shown(f"{title:10} {text}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "state", "started", "took"):
        table.add_column(title, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("what", overflow="fold")
    for stage in detail.stages:
        took = "-" if stage.seconds is None else duration(stage.seconds)
        cells = (stage.name, stage.state, started(stage.started_at), took, size(stage.size_bytes))
        table.add_row(*map(shown, cells), shown(stage.summary))
    console.print(table)
    if detail.taken:
        console.print()
        for line in account.taken_lines(detail.taken, detail.prices):
            console.print(shown(line), soft_wrap=True)
        console.print(_machines(account.table(detail.taken, detail.prices)))
    for title, lines in (("relation", detail.relations), ("file", detail.files)):
        for line in lines:
            console.print(shown(f"{title:10} {line}"), soft_wrap=True)


def _machines(rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(rows[0]):
        # Figures are aligned at their ends.
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(shown, row))
    return table


def print_comparison(comparison: Comparison) -> None:
    """Print runs side by side to stdout."""
    console = make_console()
    for title, rows in comparison.sections.items():
        table = Table(box=None, pad_edge=False)
        table.add_column(title, overflow="fold")
        for run_id in comparison.run_ids:
            table.add_column(shown(run_id), overflow="fold")
        for name, values in rows.items():
            table.add_row(shown(name), *(shown(value) for value in values))
        if rows:
            console.print(table)
        else:
            console.print(f"{title}: no differences", markup=False)
        console.print()
