"""What `plan`, `run`, `submit`, `wait`, `status` and `cancel` do with a sweep."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from tuneloop.cli.shared.options import load_prices, print_json
from tuneloop.cli.shared.terminal import stop_if_lost
from tuneloop.errors import UsageError

FOLLOW_SECONDS = 5.0
"""Seconds between two looks of `status --follow`."""

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tuneloop.artifacts.sweeps.store import Member, MemberState, SweepManifest
    from tuneloop.cli.live.progress import Progress
    from tuneloop.cli.shared.option_groups import ClusterOptions, KnownRun, RunOptions
    from tuneloop.history.cost.prices import PriceList
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.runs.backend import B_co, Backend, BackendType
    from tuneloop.runs.notifications.notifier import Notifier
    from tuneloop.runs.sequence import Callbacks
    from tuneloop.runs.sweep.plan import SweepPlan
    from tuneloop.runs.sweep.report import Row
    from tuneloop.runs.sweep.spec_file import SweepFile


def find_sweep_of(run: KnownRun) -> SweepManifest | None:
    """Read the sweep of an id; None if it is the id of a run."""
    from tuneloop.artifacts.sweeps.store import find_sweep

    return find_sweep(run.artifacts_url, run.run_id)


def plan_members(
    run: RunOptions,
    sweep: SweepFile,
    kind: BackendType[B_co],
    cluster: ClusterOptions | None = None,
    poll_seconds: float = 5.0,
) -> SweepPlan[B_co]:
    """Plan all members of a sweep with the options of the command line."""
    from tuneloop.runs.planning.prepare import prepare
    from tuneloop.runs.sweep.plan import plan_sweep

    if run.seed is not None and any("seed" in each.values for each, _ in sweep.members):
        raise UsageError(
            "--seed: the sweep varies seed, expected one of the two; remove the option"
        )
    target = run.shared_target(cluster, poll_seconds)  # each member connects by itself
    return plan_sweep(
        sweep,
        run.spec,
        lambda spec: prepare(kind, run.with_options(spec), target, seed=run.seed),
    )


def print_sweep_plan(made: SweepPlan[Backend], *, as_json: bool) -> None:
    """Print all members, the stages with their users, and the most chip-hours they can hold."""
    from rich.table import Table

    stages = made.stages()
    most = sum(stage.chip_hours for stage in stages)
    if as_json:
        value = made.manifest().model_dump(mode="json")
        shared = [{**asdict(each), "chip_hours": each.chip_hours} for each in stages]
        print_json({**value, "stages": shared, "most_chip_hours": most})
        return
    from tuneloop.cli.live.console import make_console

    console = make_console()
    console.print(f"sweep {made.sweep_id}, {len(made.members)} members", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("#", "run", "values"):
        table.add_column(column, overflow="fold")
    for member in made.members:
        table.add_row(str(member.variant.number), member.run_id, member.variant.label)
    console.print(table)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "fingerprint", "state", "members", "chips"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        users = "all" if len(stage.members) == len(made.members) else _numbers(stage.members)
        chips = str(stage.chips) if stage.chips else "-"
        table.add_row(stage.stage, stage.fingerprint[:16], stage.state, users, chips)
    console.print(table)
    runs = sum(stage.state == "to run" for stage in stages)
    each = sum(len(stage.members) for stage in stages)
    console.print(f"{runs} stages to run for {each} stages of members", markup=False)
    console.print(f"at most {most:g} chip-hours within the deadlines", markup=False)


def run_sweep(
    made: SweepPlan[Backend], *, is_local: bool, as_json: bool, **verification: Any
) -> None:
    """Run all members and print the table; members that are done are not run again.

    Args:
        made: the planned sweep.
        is_local: whether members run on this machine, one after another.
        as_json: whether the table is printed as JSON.
        **verification: fields of a sequence, which set how much of cached files is verified.
    """
    from tuneloop.artifacts.sweeps.store import save_sweep
    from tuneloop.cli.live.progress import Progress
    from tuneloop.runs.notifications.notifier import notifier_of_spec
    from tuneloop.runs.sequence import Sequence
    from tuneloop.runs.sweep.execute import SweepRun

    prices = load_prices(made.members[0].prepared.plan.spec.execution.prices)
    manifest = made.manifest()
    prepared = {member.run_id: member.prepared for member in made.members}
    parallelism = 1 if is_local else made.settings.parallelism
    with Progress(quiet=as_json) as view:
        save_sweep(manifest, made.artifacts)
        view.line(f"sweep    {made.sweep_id}, {len(made.members)} members")
        execution = SweepRun(
            manifest,
            made.artifacts,
            lambda member: prepared[member.run_id].start(),
            callbacks=_callbacks(view, parallelism),
            notifier=lambda member: notifier_of_spec(
                member.run_id, prepared[member.run_id].plan.spec, view.warn
            ),
            ended=_ended(view),
            parallelism=parallelism,
            sequence=functools.partial(Sequence, **verification),
        )
        try:
            execution.run()
        except BaseException:
            _write_report_anyway(manifest, made.artifacts)
            raise
    _finish(manifest, made.artifacts, prices, as_json=as_json)


def submit_sweep(made: SweepPlan[Backend], *, as_json: bool) -> None:
    """Write all members to the artifacts, and submit the first stage of as many as may run."""
    from tuneloop.artifacts.sweeps.store import save_sweep
    from tuneloop.runs.sequence import Sequence

    submitted: list[dict[str, str]] = []
    made.members[0].prepared.backend.connect()  # nothing is written if that fails
    save_sweep(made.manifest(), made.artifacts)
    for member in made.members:
        backend = member.prepared.start()
        sequence = Sequence(backend)
        if len(submitted) < made.settings.parallelism:
            stage = sequence.submit()
            if stage is not None:
                submitted.append({"run_id": member.run_id, "stage": stage})
        elif (stage := sequence.next_stage()) is not None:
            backend.confirm(stage)  # `wait` submits it when its turn comes
    if as_json:
        print_json({"sweep_id": made.sweep_id, "submitted": submitted})
        return
    for each in submitted:
        typer.echo(f"{each['run_id']}: submitted stage {each['stage']}")
    typer.echo(f"{made.sweep_id}: continue with:")
    typer.echo(f"tuneloop wait {made.sweep_id} --artifacts {made.artifacts}")


def wait_for_sweep(
    manifest: SweepManifest,
    run: KnownRun,
    cluster: ClusterOptions,
    poll_seconds: float,
    for_seconds: float | None,
    prices: PriceList | None = None,
    *,
    as_json: bool,
) -> None:
    """Continue a submitted sweep until all members have ended, and print the table."""
    from tuneloop.cli.live.progress import Progress
    from tuneloop.runs.notifications.notifier import notifier_of_submission
    from tuneloop.runs.sweep.execute import SweepRun

    settings = manifest.load_settings()
    opened: dict[str, KubernetesBackend] = {}

    def open_backend(member: Member) -> Backend:
        known = run.of_run(member.run_id)
        backend = known.open_backend(cluster, poll_seconds, sweep_id=manifest.sweep_id)
        opened[member.run_id] = backend
        return backend

    def notifier(member: Member) -> Notifier:
        backend = opened.pop(member.run_id)
        return notifier_of_submission(backend.submission, view.warn, backend.is_confirmed)

    with Progress(quiet=as_json) as view:
        execution = SweepRun(
            manifest,
            run.artifacts_url,
            open_backend,
            notifier=notifier,
            callbacks=_callbacks(view, settings.parallelism),
            ended=_ended(view),
            parallelism=settings.parallelism,
            retry_failed=False,
            stop_on_interrupt=False,
        )
        execution.run(for_seconds)
    _finish(manifest, run.artifacts_url, prices, as_json=as_json)


def print_sweep_status(manifest: SweepManifest, artifacts: str, *, as_json: bool) -> None:
    """Print the table of a sweep from its records. Asks no cluster."""
    from tuneloop.runs.sweep.report import build_rows

    rows = build_rows(manifest, artifacts)
    if as_json:
        members = [row.as_json() for row in rows]
        print_json({"sweep_id": manifest.sweep_id, "members": members})
    else:
        _print_table(manifest.sweep_id, rows)


def _callbacks(view: Progress, parallelism: int) -> Any:
    """Return the callbacks of a member: a bar for one member at a time, else single lines."""
    from tuneloop.cli.live.progress import sequence_callbacks
    from tuneloop.runs.sequence import Callbacks

    def of_member(member: Member) -> Callbacks:
        if parallelism == 1:
            view.line(f"member   {member.number}: {member.label} ({member.run_id})")
            return sequence_callbacks(view)
        return Callbacks(
            started=lambda stage: view.line(f"member   {member.number}: {stage} starts"),
            finished=lambda result: view.line(
                f"member   {member.number}: {result.name} {result.state} {result.seconds:.1f} s"
            ),
        )

    return of_member


def _ended(view: Progress) -> Any:
    def show(member: Member, state: MemberState) -> None:
        cause = f": {state.cause}" if state.cause else ""
        view.line(f"member   {member.number}: {state.state}{cause}")

    return show


def _write_report_anyway(manifest: SweepManifest, artifacts: str) -> None:
    """Write what is known when a sweep is interrupted; the interruption is what is reported."""
    from tuneloop.errors import TuneloopError
    from tuneloop.runs.sweep.report import write_report

    with suppress(TuneloopError):
        write_report(manifest, artifacts)


def _finish(
    manifest: SweepManifest, artifacts: str, prices: PriceList | None, *, as_json: bool
) -> None:
    """Write the report and print it; fail if a member has failed."""
    from tuneloop.runs.sweep.report import check_members, taken_lines_of, write_report

    rows, url = write_report(manifest, artifacts, prices)
    if as_json:
        members = [row.as_json() for row in rows]
        print_json({"sweep_id": manifest.sweep_id, "report": url, "members": members})
    else:
        _print_table(manifest.sweep_id, rows)
        for line in taken_lines_of(rows, prices):
            typer.echo(line)
        typer.echo(f"report   {url}")
    check_members(manifest.sweep_id, rows)


def follow_sweep(
    manifest: SweepManifest,
    artifacts: str,
    *,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the table of a sweep until all members have ended; an interrupt ends only the looking.

    A terminal shows the table in place. Elsewhere, each change of a member is one line.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from tuneloop.cli.live.console import make_console
    from tuneloop.runs.sweep.report import build_rows

    console = console or make_console()
    said: dict[int, str] = {}
    with (
        Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live
    ):
        while True:
            rows = build_rows(manifest, artifacts)
            if live is not None:
                title = Text(f"sweep {manifest.sweep_id}")
                live.update(Group(title, _table(rows)), refresh=True)
            else:
                for row in rows:
                    state = row.state if row.has_ended else row.now.partition(" ")[0]
                    if state and said.get(row.number) != state:
                        said[row.number] = state
                        console.print(f"member {row.number}: {state}", markup=False)
            if all(row.has_ended for row in rows):
                break
            stop_if_lost()
            sleep(FOLLOW_SECONDS)
    if live is None:
        _print_table(manifest.sweep_id, rows)


def _print_table(sweep_id: str, rows: Sequence[Row]) -> None:

    from tuneloop.cli.live.console import make_console

    console = make_console()
    console.print(f"sweep {sweep_id}", markup=False)
    console.print(_table(rows))


def _table(rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from tuneloop.runs.sweep.report import percent, ranked

    table = Table(box=None, pad_edge=False)
    for column in ("#", "values", "state", "steps", "loss", "before", "after"):
        table.add_column(column, overflow="fold")
    for row in ranked(rows):
        loss = row.validation_loss if row.validation_loss is not None else row.training_loss
        shown = "" if loss is None else f"{loss:.4g}"
        before = f"{100 * row.before.share:.1f} %" if row.before else ""
        table.add_row(
            *(str(row.number), Text(row.label), row.now or row.state, str(row.steps), shown),
            *(before, percent(row.after)),
        )
    return table


def _numbers(members: tuple[int, ...]) -> str:
    """Return the numbers of members, cut after eight."""
    text = ", ".join(map(str, members[:8]))
    return f"{text} and {len(members) - 8} more" if len(members) > 8 else text
