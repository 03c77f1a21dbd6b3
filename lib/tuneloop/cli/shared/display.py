"""Output for users: tables of plans, results and states."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tuneloop.artifacts.results import EvalResults
from tuneloop.cli.live.console import make_console
from tuneloop.cli.live.progress import describe_pace
from tuneloop.history.units import duration
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths

if TYPE_CHECKING:
    from tuneloop.runs.planning.any_plan import AnyPlan
    from tuneloop.runs.planning.plan_table import PlanRow
    from tuneloop.runs.planning.train_step import StepReport
    from tuneloop.runs.reports.compare import Row as CompareRow
    from tuneloop.runs.results import StageResult
    from tuneloop.runs.status import StageStatus

CURVE_POINTS = 60
BARS = "▁▂▃▄▅▆▇█"


def print_run(
    summary: dict[str, Any], stages: Sequence[StageResult], usage: Sequence[str] = ()
) -> None:
    """Print the table of a run to stdout, in 80 columns, and lines about its machines."""
    console = make_console()
    console.print(f"\nrun {summary['run_id']}", markup=False)
    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("stage", "left"),
        ("", "left"),
        ("seconds", "right"),
        ("what", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # a Literal in rich
    for result in stages:
        table.add_row(
            result.name,
            result.state,
            f"{result.seconds:.1f}",
            STAGES[result.name].summary(result.record),
        )
    console.print(table)
    curve = _loss_curve(summary)
    if curve:
        console.print(f"\nloss     {curve}", markup=False)
    for line in usage:
        console.print(line, markup=False, soft_wrap=True)
    for evaluated in (r.record for r in stages if r.name == "eval"):
        for name, (base, tuned) in evaluated.results_as(EvalResults).by_category.items():
            console.print(f"{name:16} {100 * base:5.1f} % -> {100 * tuned:5.1f} %", markup=False)
    for k, share in summary.get("samples", {}).get("pass_at", {}).items():
        console.print(f"pass@{k:11} {100 * share:5.1f} %", markup=False)
    if (report := summary.get("report")) is not None:
        page = f"{report.removesuffix('.md')}.html"  # a run of an older version has none
        report = page if files.exists(page) else report
        console.print(f"\nreport   {report}", markup=False, soft_wrap=True)
    else:
        console.print(f"\nscores   {summary['file']}", markup=False, soft_wrap=True)
    console.print(f"all      {summary['artifacts']}", markup=False, soft_wrap=True)


def _loss_curve(summary: dict[str, Any]) -> str:
    """Return the loss per step as one line of bars, on a log scale; empty without metrics."""
    url = paths.join(summary["artifacts"], "training_runs", summary["run_id"], "metrics.jsonl")
    try:
        rows = [json.loads(line) for line in files.read(url).splitlines()]
    except FileNotFoundError:
        return ""
    losses = [row["loss"] for row in rows if row["step"]]
    picked = losses[:: max(1, len(losses) // CURVE_POINTS)]
    logs = [math.log(max(loss, 1e-9)) for loss in picked]
    low, high = min(logs), max(logs)
    span = (high - low) or 1.0
    return "".join(BARS[round((x - low) / span * (len(BARS) - 1))] for x in logs)


def report_text(summary: dict[str, Any]) -> str:
    """Return the Markdown report; its URL if the file is missing."""
    try:
        return files.read(summary["report"]).decode("utf-8", "replace")
    except FileNotFoundError:
        return f"report: {summary['report']}"


def print_plan(
    plan: AnyPlan, rows: Sequence[PlanRow], report: StepReport | None, bounds: Sequence[str] = ()
) -> None:
    """Print the table of a plan, its bounds and a training step's memory to stdout.

    Args:
        plan: the planned run.
        rows: its stages.
        report: memory and time of a training step; None for a run without training.
        bounds: lines about what the run takes at most.
    """
    console = make_console()
    console.print(f"run {plan.run_id}, seed {plan.seed}", markup=False)
    if plan.model is not None:
        console.print(f"model {plan.model.words}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("stage", "fingerprint", "state", "where", "machine"):
        # In 80 columns, a long namespace is folded, so that people can copy every other cell.
        table.add_column(column, no_wrap=column != "where", overflow="fold")
    for column in ("hosts", "chips", "memory", "deadline"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(row.name, row.fingerprint[:11], row.state, row.where, row.accelerator),
            *(str(row.hosts), str(row.chips) if row.chips else "-", row.memory or "-"),
            "-" if row.deadline_seconds is None else _limit(row.deadline_seconds),
        )
    console.print(table)
    for line in [*bounds, *(_step_lines(report) if report else [])]:
        console.print(line, markup=False)


def _limit(seconds: int) -> str:
    """Format a limit of time like `24 h`, `1 h 30 min` or `45 min`."""
    return duration(seconds).removesuffix(" 00 min").removesuffix(" 00 s")


def _step_lines(report: StepReport) -> list[str]:
    """Describe a training step: one line without `--compile`, several with it."""
    parts = report.estimate
    named = {
        "weights": parts["weights"] + parts["compute_copy"],
        "optimizer": parts["optimizer"],
        "gradients": parts["gradients"],
        "activations": parts["activations"],
    }
    by_use = ", ".join(f"{name} {_size(size)}" for name, size in named.items())
    about = f"about {_size(parts['peak'])} per device: {by_use}"
    host = f"host memory about {_size(report.host_memory['peak'])} per pod"
    if not report.compiled:
        limit = report.limit_bytes
        warning = "" if report.fits or not limit else f"; {_size(limit)} can be used"
        note = [f"estimate only: {report.note}"] if report.note else []
        return [f"memory {about}{warning}", host, *note]
    return [
        f"memory {_size(report.peak_bytes)} of {_size(report.limit_bytes or 0)} per device,"
        f" compiled for {report.accelerator}",
        f"estimate {about}",
        host,
        *_exchange_lines(report),
        *_time_lines(report),
    ]


def _exchange_lines(report: StepReport) -> list[str]:
    kinds = [
        f"{found['count']} {kind} ({found['size_bytes'] / 1e6:.0f} MB)"
        for kind, found in report.collectives.items()
    ]
    return [f"exchange {', '.join(kinds)} on each device"] if kinds else []


def _time_lines(report: StepReport) -> list[str]:
    seconds, rate, hours = (
        report.estimate_step_seconds,
        report.tokens_per_second,
        report.chip_hours,
    )
    if seconds is None or rate is None or hours is None:
        return []
    price = "" if report.cost is None else f", cost {report.cost:.2f}"
    return [
        f"step at least {seconds:.3g} s: {report.flops / 1e12:.3g} TFLOP, {rate:,.0f} tokens/s",
        f"run at least {hours:.3g} chip-hours in {report.steps} steps{price}",
    ]


def _size(size_bytes: int) -> str:
    if size_bytes < 2**30:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / 2**30:.2f} GiB"


def print_status(run_id: str, stages: Sequence[StageStatus]) -> None:
    """Print the table of a submitted run to stdout."""
    console = make_console()
    console.print(f"run {run_id}", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "state", "step", "how fast, or what it waits for"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        pace = describe_pace(stage.rate_per_second, stage.seconds_left, stage.loss)
        table.add_row(stage.name, stage.state, stage.step, Text(pace or stage.cause))
    console.print(table)


def print_comparison(rows: Sequence[CompareRow]) -> None:
    """Print tuned models side by side to stdout, one table for each set, in 80 columns."""
    console = make_console()
    for digest in dict.fromkeys(row.sha256 for row in rows):
        own = [row for row in rows if row.sha256 == digest]
        console.print(f"{own[0].set}: {own[0].items} items", markup=False)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("run", overflow="fold")
        for column in ("correct", "points", "95 % interval", "adj. p"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("+/-", justify="right", no_wrap=True)
        table.add_column("verdict", overflow="fold")
        for row in own:
            shown: list[str | Text] = [Text(row.run_id), f"{100 * row.accuracy:.1f} %"]
            if row.gain is None:
                shown += ["", f"{100 * row.low:.1f} to {100 * row.high:.1f} %", "", "", "the first"]
            else:
                low, high = row.gain_low or 0.0, row.gain_high or 0.0
                shown += [
                    f"{100 * row.gain:+.1f}",
                    f"{100 * low:+.1f} to {100 * high:+.1f}",
                    f"{row.adjusted_p:.2g}",
                    f"{row.better}/{row.worse}",
                    row.verdict or "",
                ]
            table.add_row(*shown)
        console.print(table)


def print_explanation(stage: StageStatus) -> None:
    """Print one verdict with its evidence to stdout."""
    table = Table.grid(padding=(0, 2))
    for title, text in (
        ("stage", f"{stage.name}: {stage.state}"),
        ("cause", stage.cause),
        ("object", stage.about),
        ("do", stage.fix),
        *(("saw", line) for line in stage.evidence),
    ):
        if text:
            table.add_row(title, Text(text, overflow="fold"))
    make_console().print(table)
