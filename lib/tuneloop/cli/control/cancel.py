"""The verb `cancel`: end a run, or one stage of it, on a cluster and on this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.cli.control import rounds, sweeps
from tuneloop.cli.shared.option_groups import ClusterOptions, KnownRun, expand_groups
from tuneloop.cli.shared.options import MOST_SECONDS, Json, print_json
from tuneloop.errors import StillRunning, UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.runs.cancellation import Cancellation
    from tuneloop.artifacts.sweeps.store import SweepManifest


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(expand_groups(cancel))


def cancel(
    run: KnownRun,
    cluster: ClusterOptions,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Cancel only this stage, such as train.")
    ] = None,
    timeout_seconds: Annotated[
        float,
        typer.Option(
            "--timeout-seconds",
            min=0,
            max=MOST_SECONDS,
            help="Maximum seconds to wait until everything has ended; exit code 32 if it has not.",
        ),
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """End a run, a sweep or rounds, wherever they run. Records and checkpoints remain."""
    if (sweep := sweeps.find_sweep_of(run)) is not None:
        result = _cancel_sweep(sweep, run, cluster, stage, timeout_seconds)
    elif (found := rounds.find_rounds_of(run)) is not None:
        if stage is not None:
            raise UsageError(f"--stage {stage}: {run.run_id} are rounds, expected one run; omit it")
        result = rounds.cancel_rounds(
            found,
            run,
            lambda member, seconds: _cancel_run(member, cluster, None, seconds),
            timeout_seconds,
        )
    else:
        result = _cancel_run(run, cluster, stage, timeout_seconds)
    if as_json:
        print_json(
            {
                "run_id": run.run_id,
                "ended": result.ended,
                "kept": result.kept,
                "remaining": result.remaining,
            }
        )
    elif result.ended:
        typer.echo(f"{run.run_id}: ended {', '.join(result.ended)}")
    elif not result.remaining:
        typer.echo(f"{run.run_id}: nothing is left to cancel")
    for line in result.kept:
        typer.echo(f"kept {line}", err=True)
    if result.remaining:
        raise StillRunning(
            f"{run.run_id}: not everything has ended within {timeout_seconds:g} seconds:"
            f" {'; '.join(result.remaining)}"
        )


def _cancel_sweep(
    sweep: SweepManifest,
    run: KnownRun,
    cluster: ClusterOptions,
    stage: str | None,
    timeout_seconds: float,
) -> Cancellation:
    """Cancel all members that have started; no process that runs the sweep starts another."""
    from tuneloop.artifacts.layout import run_manifest_url
    from tuneloop.artifacts.runs.cancellation import Cancellation
    from tuneloop.artifacts.sweeps.store import mark_cancelled
    from tuneloop.artifacts.sweeps.submission import find_submitted_sweep
    from tuneloop.cli.control.detached import cancel_submitter
    from tuneloop.storage import files

    artifacts = run.artifacts_url
    if stage is None:
        mark_cancelled(artifacts, sweep.sweep_id)
    until = time.monotonic() + timeout_seconds
    result = Cancellation()
    submitted = find_submitted_sweep(artifacts, sweep.sweep_id) if stage is None else None
    started = [
        run.of_run(member.run_id)
        for member in sweep.members
        if files.exists(run_manifest_url(artifacts, member.run_id))
    ]
    if submitted is not None:
        # The submitter comes first, because it would start other members. Its Job owns theirs.
        for member in started:
            member.open_backend(cluster).note_cancellation()
        result += cancel_submitter(submitted, cluster, timeout_seconds)
    for member in started:
        result += _cancel_run(member, cluster, stage, max(0.0, until - time.monotonic()))
    # What one member keeps, because it belongs to another one, is deleted with the other one.
    return replace(result, kept=())


def _cancel_run(
    run: KnownRun, cluster: ClusterOptions, stage: str | None, timeout_seconds: float
) -> Cancellation:
    from tuneloop.artifacts.layout import run_manifest_url
    from tuneloop.artifacts.runs.submission import submission_url
    from tuneloop.runs.cancellation import cancel_local_run
    from tuneloop.stages.table import STAGES
    from tuneloop.storage import files

    if stage is not None and stage not in STAGES:
        known = ", ".join(STAGES)
        raise UsageError(f"--stage {stage}: unknown, expected one of {known}; correct the name")
    artifacts, run_id = run.artifacts_url, run.run_id
    result = cancel_local_run(artifacts, run_id, stage, wait_seconds=timeout_seconds)
    if files.exists(submission_url(artifacts, run_id)):
        backend = run.open_backend(cluster)
        return result + backend.cancel_run(stage, wait_seconds=timeout_seconds)
    if result == type(result)() and not files.exists(run_manifest_url(artifacts, run_id)):
        raise UsageError(
            f"run {run_id}: found no run of this id below {artifacts}, expected one that `run` or"
            " `submit` has started; check the id and --artifacts"
        )
    return result
