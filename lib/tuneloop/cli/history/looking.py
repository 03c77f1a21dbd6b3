"""Verbs that only look: list, groups, show, compare. They read the artifacts and ask no cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from tuneloop.cli.shared.option_groups import KnownRun
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    MOST,
    Json,
    Prices,
    artifacts_option,
    prices_of_run,
    print_json,
)
from tuneloop.errors import UsageError

Artifacts = Annotated[str, artifacts_option("Artifacts URL of the runs.")]
ORDERS = ("started", "name", "state", "dataset", "model", "duration", "accuracy")


def list_(
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Pattern of the run id or the spec's name, such as 'demo*'."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            help="finished, unfinished, failed, or a word of the state: a stage such as train, or"
            " its state such as running or OutOfMemory.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Pattern of the dataset key.")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="ID",
            help="Only the runs of this sweep or of these rounds; a pattern such as 'letters-*'."
            " none: only the runs that belong to neither.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Earliest start: an age such as 12h or 7d, or a date."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=MOST, help="Maximum number.")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort", help=f"Order: {', '.join(ORDERS)}. Times and accuracies: largest first."
        ),
    ] = "started",
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Read the records of all runs instead of the index of each run, and write the"
            " indexes again. Use it after files of a run were changed by hand.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List runs with their state, dataset, base model and accuracy, the newest first."""
    from tuneloop.cli.history import tables
    from tuneloop.history.listing import RunQuery, list_runs, parse_since
    from tuneloop.storage import paths

    if sort not in ORDERS:
        raise UsageError(f"--sort: found {sort!r}, expected one of {', '.join(ORDERS)}")
    now = datetime.now(UTC)
    query = RunQuery(
        name, state, dataset, parse_since(since, now) if since else None, limit, sort, reverse, of
    )
    found = list_runs(paths.absolute(artifacts), query, now=now, rebuild=rebuild)
    if as_json:
        print_json({"artifacts": paths.absolute(artifacts), "runs": [r.as_json() for r in found]})
    elif found:
        tables.print_runs(found)
    else:
        typer.echo(f"no runs found below {artifacts}", err=True)


def groups(artifacts: Artifacts = DEFAULT_ARTIFACTS, as_json: Json = False) -> None:
    """List sweeps and rounds with the number of their runs, the newest first.

    `tuneloop status ID` shows one of them with all of its runs.
    """
    from tuneloop.cli.history import tables
    from tuneloop.history.grouping.listing import list_groups
    from tuneloop.storage import paths

    found = list_groups(paths.absolute(artifacts), now=datetime.now(UTC))
    if as_json:
        print_json({"artifacts": paths.absolute(artifacts), "groups": [g.as_json() for g in found]})
    elif found:
        tables.print_groups(found)
    else:
        typer.echo(f"no sweeps or rounds found below {artifacts}", err=True)


def show(run: KnownRun, prices: Prices = None, as_json: Json = False) -> None:
    """Show a run: its spec, stages, machines, results, files, and the runs that it belongs to."""
    from tuneloop.cli.control import rounds
    from tuneloop.cli.history import tables
    from tuneloop.history.detail import read_detail

    if (found := rounds.find_rounds_of(run)) is not None:
        rounds.print_rounds_status(found, run.artifacts_url, as_json=as_json)
        return

    detail = read_detail(
        run.artifacts_url,
        run.run_id,
        now=datetime.now(UTC),
        prices_of=partial(prices_of_run, prices),
    )
    if as_json:
        print_json(detail.as_json())
    else:
        tables.print_run(detail)


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN_ID RUN_ID...", help="Two or more run ids.")
    ],
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    prices: Prices = None,
    as_json: Json = False,
) -> None:
    """Compare runs: differences of spec, code and data; results and machines side by side."""
    from tuneloop.cli.history import tables
    from tuneloop.history.comparison import compare_runs
    from tuneloop.storage import paths

    if len(runs) < 2:
        raise UsageError("compare: found one run id, expected at least two; add another")
    for run_id in runs:
        KnownRun(run_id)  # refuses an id that points outside the artifacts
    comparison = compare_runs(
        paths.absolute(artifacts),
        runs,
        now=datetime.now(UTC),
        prices_of=partial(prices_of_run, prices),
    )
    if as_json:
        print_json(comparison.as_json())
    else:
        tables.print_comparison(comparison)
