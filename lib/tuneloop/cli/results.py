"""Verbs on the result of a run: report, gate. They read the artifacts and ask no cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tuneloop.cli.option_groups import KnownRun, expand_groups
from tuneloop.cli.options import Prices, find_run_manifest, prices_of_run, print_json


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (report, gate):
        app.command()(expand_groups(verb))


def report(
    run: KnownRun,
    report_format: Annotated[
        Literal["markdown", "json", "comment", "marker"],
        typer.Option(
            "--format",
            help="Output: the report (markdown), its numbers (json), a pull request comment, or the"
            " first line of that comment (marker), which identifies it.",
        ),
    ] = "markdown",
    prices: Prices = None,
) -> None:
    """Print the report of a run. The comment format also covers failed and unfinished runs."""
    from tuneloop.cli import github
    from tuneloop.history.cost import account
    from tuneloop.runs import comment
    from tuneloop.runs.outcome import load_outcome, read_report, required_report

    run_id = run.run_id
    if report_format == "marker":
        typer.echo(comment.marker(run_id))
        return
    outcome = load_outcome(run.artifacts_url, run_id)
    if report_format == "comment":
        page = github.run_url()
        typer.echo(
            comment.render_comment(outcome, {"workflow run": page} if page else {}), nl=False
        )
        return
    found = required_report(outcome)
    listed = prices_of_run(prices, find_run_manifest(run.artifacts_url, run_id))
    stages = account.taken_by_run(run.artifacts_url, run_id, listed)
    if report_format == "json":
        usage = account.as_json(stages, listed)
        print_json({"run_id": run_id, **found.model_dump(mode="json"), "usage": usage})
    else:
        typer.echo(read_report(run.artifacts_url, run_id), nl=False)
        typer.echo(account.markdown(stages, listed), nl=False)


def gate(
    run: KnownRun,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum accuracy of the tuned model, 0 to 1."),
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Minimum accuracy gain (tuned - base); 0 allows no regression."
        ),
    ] = None,
    max_regressions: Annotated[
        int | None,
        typer.Option(
            min=0, help="Maximum number of items that only the base model answered correctly."
        ),
    ] = None,
    min_gain_low: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Minimum lower end of the gain's 95 % interval."),
    ] = None,
    min_guard_kept: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum share of the guarded questions the base answered correctly that must"
            " still be correct.",
        ),
    ] = None,
) -> None:
    """Check the result of a run. Exit 13 if it fails the gate, 12 if there is none yet."""
    from tuneloop.cli import github
    from tuneloop.errors import GateFailed
    from tuneloop.evaluation.gates.limits import Gate
    from tuneloop.runs.outcome import check_gate, load_outcome

    asked = Gate(min_accuracy, min_gain, max_regressions, min_gain_low, min_guard_kept)
    run_id = run.run_id
    outcome = load_outcome(run.artifacts_url, run_id)
    try:
        found = check_gate(outcome, asked).overall
    except GateFailed as e:
        github.annotate("error", f"{run_id}: gate", str(e))
        raise
    typer.echo(
        f"{run_id}: accuracy {100 * found.base.share:.1f} % -> {100 * found.tuned.share:.1f} %,"
        f" {found.paired.regressed} items regressed: the gate passes"
    )
