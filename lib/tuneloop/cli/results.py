"""The verb that prints the report of a run. It reads the artifacts and asks no cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tuneloop.cli.gates.gate import GateOptions
from tuneloop.cli.option_groups import KnownRun, expand_groups
from tuneloop.cli.options import Prices, find_run_manifest, prices_of_run, print_json


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(expand_groups(report))


def report(
    run: KnownRun,
    limits: GateOptions,
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
    """Print the report of a run. The comment format also covers failed and unfinished runs.

    With options of a gate, the comment shows whether the run passes. The other formats exit with 13
    if it does not.
    """
    from tuneloop.cli import github
    from tuneloop.history.cost import account
    from tuneloop.runs import comment
    from tuneloop.runs.gating.judge import require_pass
    from tuneloop.runs.outcome import load_outcome, read_report, required_report

    run_id = run.run_id
    if report_format == "marker":
        typer.echo(comment.marker(run_id))
        return
    outcome = load_outcome(run.artifacts_url, run_id)
    judged = None
    if limits.is_given and (outcome.report is not None or report_format != "comment"):
        judged = limits.judge(run.artifacts_url, outcome)
    if report_format == "comment":
        page = github.run_url()
        links = {"workflow run": page} if page else {}
        typer.echo(comment.render_comment(outcome, links, judged), nl=False)
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
    if judged is not None:
        require_pass(outcome, judged)
