"""What `plan`, `run`, `status`, `report` and `cancel` do with rounds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from tuneloop.cli.shared.options import print_json
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from tuneloop.artifacts.rounds.store import ChainEnd, RoundsManifest
    from tuneloop.artifacts.runs.cancellation import Cancellation
    from tuneloop.cli.live.progress import Progress
    from tuneloop.cli.shared.option_groups import ClusterOptions, KnownRun, RunOptions
    from tuneloop.runs.backend import Backend, BackendType
    from tuneloop.runs.rounds.plan import RoundsPlan
    from tuneloop.runs.rounds.report import RoundsReport
    from tuneloop.runs.rounds.rows import Row
    from tuneloop.runs.rounds.spec_file import RoundsFile
    from tuneloop.runs.rounds.walk import Member
    from tuneloop.runs.sequence import Callbacks


STATISTICS = ("scipy", "statsmodels")
"""Packages of the extra `eval` that the report needs."""


def refuse_rounds(run: RunOptions, verb: str) -> None:
    """Refuse a spec with rounds for a verb that cannot run them.

    Raises:
        UsageError: the spec has the key `rounds`.
    """
    if run.load_rounds() is not None:
        raise UsageError(
            f"{verb}: {run.spec} has the key rounds, expected one run or a sweep, because later"
            " rounds are planned when earlier ones are done; use `tuneloop run --backend cluster`,"
            " or call `tuneloop trigger --backend cluster` from a schedule, such as the CronJob of"
            " the cluster's base"
        )


def find_rounds_of(run: KnownRun) -> RoundsManifest | None:
    """Read the rounds of an id; None if it is the id of something else.

    Raises:
        InputMissing: it looks like the id of rounds, and nothing has it.
    """
    from tuneloop.artifacts.layout import run_manifest_url
    from tuneloop.artifacts.rounds.store import find_rounds, is_rounds_id, load_rounds
    from tuneloop.storage import files

    artifacts = run.artifacts_url
    found = find_rounds(artifacts, run.run_id)
    if found is None and is_rounds_id(run.run_id):
        # The name of a run may contain the mark of rounds.
        if not files.exists(run_manifest_url(artifacts, run.run_id)):
            return load_rounds(artifacts, run.run_id)
    return found


def plan_of(
    run: RunOptions,
    found: RoundsFile,
    kind: BackendType[Backend],
    cluster: ClusterOptions | None = None,
    poll_seconds: float = 5.0,
) -> RoundsPlan:
    """Plan rounds with the options of the command line."""
    from tuneloop.runs.rounds.plan import Placement, plan_rounds

    target = run.shared_target(cluster, poll_seconds)  # each member connects by itself
    return plan_rounds(found, run.with_options(found.spec), run.seed, Placement(kind, target))


def print_rounds_plan(made: RoundsPlan, *, as_json: bool) -> None:
    """Print the table of all rounds and arms; nothing is written."""
    from tuneloop.runs.rounds.rows import build_rows
    from tuneloop.runs.rounds.walk import Walk

    manifest = made.manifest()
    for seed in made.seeds:
        for member in Walk(made, seed, may_write=False).members():
            manifest = manifest.with_member(member.row)
            if not member.is_done:
                break
    rows = build_rows(manifest, made.artifacts)
    if as_json:
        print_json(_as_json(made.rounds_id, rows))
        return
    _print_table(made.rounds_id, rows)
    later = sum(row.state == "later" for row in rows)
    if later:
        typer.echo(f"{later} runs are planned when the rounds before them are done")


def run_rounds(
    made: RoundsPlan,
    *,
    as_json: bool,
    quiet: bool = False,
    started: Callable[[], None] = lambda: None,
    stop_on_interrupt: bool = True,
    **verification: Any,
) -> None:
    """Run all members that are not done, then write and print the report.

    Args:
        made: the rounds.
        as_json: whether the report is printed as JSON.
        quiet: whether nothing is printed at all.
        started: called once rounds.json is written, before the first member starts.
        stop_on_interrupt: whether an interrupt stops the running stage, or leaves it to the next
            supervisor.
        **verification: fields of a sequence, which set how much of cached files is verified.

    Raises:
        StageFailed: a chain has failed.
    """
    from tuneloop.cli.live.progress import Progress
    from tuneloop.runs.notifications.notifier import notifier_of_spec
    from tuneloop.runs.rounds.execute import RoundsRun, check_chains
    from tuneloop.runs.sequence import Sequence

    with Progress(quiet=as_json or quiet) as view:
        count, seeds = made.settings.count, len(made.seeds)
        size = f"{count} round{'s' * (count > 1)} of {seeds} seed{'s' * (seeds > 1)}"
        view.line(f"rounds   {made.rounds_id}, {size}")
        execution = RoundsRun(
            made,
            callbacks=_callbacks(view),
            ended=_ended(view),
            notifier=lambda member: notifier_of_spec(
                member.plan.run_id, member.plan.spec, view.warn
            ),
            started=started,
            stop_on_interrupt=stop_on_interrupt,
            sequence=functools.partial(Sequence, **verification),
        )
        try:
            manifest = execution.run()
        except BaseException:
            _write_report_anyway(made)
            raise
    written = _write_report(manifest, made.artifacts)
    if not quiet:
        _print_result(manifest, made.artifacts, written, as_json=as_json)
    check_chains(manifest, made.artifacts)


def print_rounds_status(manifest: RoundsManifest, artifacts: str, *, as_json: bool) -> None:
    """Print the table of rounds from their records."""
    from tuneloop.runs.rounds.rows import build_rows

    rows = build_rows(manifest, artifacts, live=True)
    if as_json:
        print_json(_as_json(manifest.rounds_id, rows))
    else:
        _print_table(manifest.rounds_id, rows)


def report_rounds(
    manifest: RoundsManifest, artifacts: str, folder: str | None, *, as_json: bool
) -> str:
    """Build the report from the records, and return it as Markdown or JSON.

    Args:
        manifest: the rounds.
        artifacts: URL of the artifacts.
        folder: URL of a folder for the files of the report; None writes nothing.
        as_json: whether JSON is returned.
    """
    import json

    from tuneloop.runs.rounds.report import build_report, render_markdown, write_files
    from tuneloop.storage import paths

    report = build_report(manifest, artifacts)
    if folder is not None:
        write_files(report, paths.absolute(folder))
    return json.dumps(report.as_json(), ensure_ascii=False) if as_json else render_markdown(report)


def cancel_rounds(
    manifest: RoundsManifest,
    run: KnownRun,
    cancel_run: Callable[[KnownRun, float], Cancellation],
    timeout_seconds: float,
) -> Cancellation:
    """End the stage that runs, and start no other member.

    Args:
        manifest: the rounds.
        run: their id and artifacts.
        cancel_run: ends a member, within seconds.
        timeout_seconds: maximum seconds for all members.
    """
    from tuneloop.artifacts.layout import run_manifest_url
    from tuneloop.artifacts.rounds.store import mark_cancelled, read_end
    from tuneloop.artifacts.runs.cancellation import Cancellation
    from tuneloop.storage import files

    artifacts, result = run.artifacts_url, Cancellation()
    ends = [read_end(artifacts, manifest.rounds_id, seed) for seed in manifest.seeds]
    if all(ends):
        return result
    mark_cancelled(artifacts, manifest.rounds_id)
    until = time.monotonic() + timeout_seconds
    for member in manifest.members:
        if files.exists(run_manifest_url(artifacts, member.run_id)):
            left = max(0.0, until - time.monotonic())
            result += cancel_run(run.of_run(member.run_id), left)
    # What one member keeps, because it belongs to another one, is deleted with the other one.
    return replace(result, kept=())


def _callbacks(view: Progress) -> Any:
    from tuneloop.cli.live.progress import sequence_callbacks

    def of_member(member: Member) -> Callbacks:
        place = member.place
        what = f"round {place.round} {place.role}" if place.round else place.role
        view.line(f"seed {place.seed}   {what} ({member.plan.run_id})")
        return sequence_callbacks(view)

    return of_member


def _ended(view: Progress) -> Any:
    def show(seed: int, end: ChainEnd) -> None:
        cause = f": {end.cause}" if end.cause else ""
        view.line(f"seed {seed}   {end.state}{cause}")

    return show


def _write_report(manifest: RoundsManifest, artifacts: str) -> tuple[RoundsReport, str] | None:
    """Write the report; None where the extra `eval` is not installed, as in the image `base`.

    Rounds can be supervised without the statistics, and the report can be made later from the
    artifacts.
    """
    try:
        from tuneloop.runs.rounds.report import write_report
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in STATISTICS:
            raise
        return None
    return write_report(manifest, artifacts)


def _write_report_anyway(made: RoundsPlan) -> None:
    """Write what is known when rounds are interrupted; the interruption is what is reported."""
    from tuneloop.artifacts.rounds.store import find_rounds
    from tuneloop.errors import TuneloopError

    with suppress(TuneloopError):
        manifest = find_rounds(made.artifacts, made.rounds_id)
        if manifest is not None:
            _write_report(manifest, made.artifacts)


def _print_result(
    manifest: RoundsManifest,
    artifacts: str,
    written: tuple[RoundsReport, str] | None,
    *,
    as_json: bool,
) -> None:
    """Print the report, or the table of all runs if there is none."""
    if written is None:
        print_rounds_status(manifest, artifacts, as_json=as_json)
        typer.echo(
            "report   not written, because the statistics need the extra eval, which is not"
            " installed here; where it is, this prints the report:",
            err=True,
        )
        typer.echo(f"tuneloop report {manifest.rounds_id} --artifacts {artifacts}", err=True)
        return
    report, url = written
    if as_json:
        print_json({**report.as_json(), "report": url})
        return
    _print_table(report.rounds_id, report.rows)
    typer.echo("")
    for sentence in report.sentences:
        typer.echo(sentence)
    typer.echo("")
    typer.echo(f"report   {url}")


def _as_json(rounds_id: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {"rounds_id": rounds_id, "runs": [row.as_json() for row in rows]}


def _print_table(rounds_id: str, rows: Sequence[Row]) -> None:
    from tuneloop.cli.history.tables import WIDE
    from tuneloop.cli.live.console import make_console

    console = make_console()
    console.print(f"rounds {rounds_id}", markup=False)
    console.print(rounds_table(rows, is_wide=console.width >= WIDE))
    for row in rows:
        if row.error:
            console.print(f"{row.run_id}: {row.error}", markup=False, soft_wrap=True)


def rounds_table(rows: Sequence[Row], *, is_wide: bool) -> Table:
    """Build the table of all seeds, rounds and arms.

    In a narrow terminal, the id takes the place of round and arm, which it contains: people copy
    it, so it must not be folded.
    """
    from rich.table import Table
    from rich.text import Text

    from tuneloop.runs.rounds.rows import percent

    table = Table(box=None, pad_edge=False)
    run_columns = ("round", "run") if is_wide else ("run",)
    size = "examples" if is_wide else "size"
    for column in ("seed", *run_columns, "state", size, "before", "after", "gate"):
        table.add_column(column, overflow="fold", no_wrap=column == "run")
    if is_wide:
        table.add_column("id", overflow="fold", no_wrap=True)
    for row in rows:
        place = f"round {row.round} {row.role}" if row.round else row.role
        cells = [
            str(row.seed),
            *((str(row.round), row.role) if is_wide else (row.run_id or place,)),
            row.state,
            "" if row.examples is None else str(row.examples),
            percent(row.before),
            percent(row.after),
            row.gate,
            *((row.run_id,) if is_wide else ()),
        ]
        table.add_row(*map(Text, cells))
    return table
