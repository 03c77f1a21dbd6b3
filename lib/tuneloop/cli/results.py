"""Verbs on what a run came to: report, gate. They read the artifacts and ask no cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tuneloop.cli.option_groups import KnownRun, expand_groups
from tuneloop.cli.options import print_json


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
            help="The report, its numbers, a comment for a pull request, or the comment's first"
            " line, by which it is found again.",
        ),
    ] = "markdown",
) -> None:
    """Print the report of a run; as comment also why it failed, or that it has not finished."""
    from tuneloop.cli import github
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
    if report_format == "json":
        print_json({"run_id": run_id, **found.model_dump(mode="json")})
    else:
        typer.echo(read_report(run.artifacts_url, run_id), nl=False)


def gate(
    run: KnownRun,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the tuned model, 0.85 is 85 %."),
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Tuned less base; 0: it must not be worse."),
    ] = None,
    max_regressions: Annotated[
        int | None, typer.Option(min=0, help="Items that only the base has right.")
    ] = None,
) -> None:
    """Exit 13 if a run's result is worse than asked, 12 if it has none yet."""
    from tuneloop.cli import github
    from tuneloop.errors import GateFailed
    from tuneloop.evaluation.gates import Gate
    from tuneloop.runs.outcome import check_gate, load_outcome

    asked = Gate(min_accuracy, min_gain, max_regressions)
    run_id = run.run_id
    outcome = load_outcome(run.artifacts_url, run_id)
    try:
        found = check_gate(outcome, asked).overall
    except GateFailed as e:
        github.annotate("error", f"{run_id}: gate", str(e))
        raise
    typer.echo(
        f"{run_id}: accuracy {100 * found.base.share:.1f} % -> {100 * found.tuned.share:.1f} %,"
        f" {found.paired.regressed} items regressed: the gate lets it through"
    )
