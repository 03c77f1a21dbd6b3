"""Verbs on the results of runs: report, compare. They read the artifacts and ask no cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.cli.control.rounds import find_rounds_of, report_rounds
from tuneloop.cli.gates.gate import GateOptions
from tuneloop.cli.shared.option_groups import KnownRun, expand_groups
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    Json,
    Prices,
    artifacts_option,
    find_run_manifest,
    prices_of_run,
    print_json,
)
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.records import Record


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(expand_groups(report))
    app.command()(compare)


def report(
    run: KnownRun,
    limits: GateOptions,
    report_format: Annotated[
        Literal["markdown", "json", "comment", "marker", "inspect"],
        typer.Option(
            "--format",
            help="Output: the report (markdown), its numbers (json), a pull request comment, the"
            " first line of that comment (marker), which identifies it, or one log of inspect_ai"
            " for each set and model (inspect; needs -o).",
        ),
    ] = "markdown",
    prices: Prices = None,
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="Score all answers again with the scorers of this version, build the report from"
            " them, and say on stderr what changed. The run keeps its own scores.",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="With --rescore: also write samples.jsonl and the report (json, md, html) there."
            " With --format inspect: write the logs there. For rounds: also write the report (json,"
            " md, html) there.",
        ),
    ] = None,
) -> None:
    """Print the report of a run, or of rounds.

    The comment format also covers failed and unfinished runs. With options of a gate, the comment
    shows whether the run passes. The other formats exit with 13 if it does not.
    """
    if (rounds := find_rounds_of(run)) is not None:
        if limits.is_given or rescore or report_format not in ("markdown", "json"):
            raise UsageError(
                f"report {run.run_id}: found options of a run, expected the format markdown or json"
                " for rounds; remove the others"
            )
        as_json = report_format == "json"
        text = report_rounds(rounds, run.artifacts_url, output, as_json=as_json)
        typer.echo(text, nl=as_json)
        return
    if rescore:
        if limits.is_given or report_format not in ("markdown", "json"):
            raise UsageError(
                "--rescore: found options of a gate or another format, expected the format markdown"
                " or json; remove them"
            )
        _rescore(run, report_format, output)
        return
    if report_format == "inspect":
        _write_inspect_logs(run, limits, output)
        return
    if output is not None:
        raise UsageError(
            "--output: found without --rescore and --format inspect; add one of them, or remove it"
        )
    from tuneloop.cli.shared import github
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
    if outcome.samples is not None and not limits.is_given:
        _print_samples(run, outcome.samples, report_format)
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


def _print_samples(run: KnownRun, sampled: Record, report_format: str) -> None:
    """Print the report of a sampling run."""
    from tuneloop.runs.outcome import read_sampling_report

    if report_format == "json":
        print_json({"run_id": run.run_id, "samples": {**sampled.counts, **sampled.results}})
    else:
        typer.echo(read_sampling_report(run.artifacts_url, sampled), nl=False)


def _rescore(run: KnownRun, report_format: str, output: str | None) -> None:
    from tuneloop.runs.reports.rescore import rescore_run
    from tuneloop.storage import files, paths

    found = rescore_run(run.artifacts_url, run.run_id)
    for line in found.lines():
        typer.echo(line, err=True)
    if output is not None:
        for name, data in found.files().items():
            files.write(paths.join(paths.absolute(output), name), data)
    if report_format == "json":
        print_json(found.as_json())
    else:
        typer.echo(found.markdown(), nl=False)


def _write_inspect_logs(run: KnownRun, limits: GateOptions, output: str | None) -> None:
    if limits.is_given:
        raise UsageError(
            "--format inspect: found options of a gate, expected none; remove them, or take another"
            " format"
        )
    if output is None:
        raise UsageError("--format inspect: expected -o with a folder for the logs; give one")
    from tuneloop.runs.reports.inspect_logs import write_logs
    from tuneloop.storage import paths

    for place in write_logs(run.artifacts_url, run.run_id, paths.absolute(output)):
        typer.echo(place)


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN_ID RUN_ID...", help="Two or more run ids.")
    ],
    artifacts: Annotated[str, artifacts_option("Artifacts URL of the runs.")] = DEFAULT_ARTIFACTS,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="Also write a page that loads nothing: figures, and the items that differ.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the tuned models of runs, item by item, on the eval sets that the runs share.

    Every run is compared with the first. Verdicts are by p-values that are adjusted for the number
    of comparisons. `tuneloop runs compare` compares specs, code and data.
    """
    from tuneloop.cli.shared.display import print_comparison
    from tuneloop.runs.reports import compare as comparing
    from tuneloop.runs.reports.samples import read_samples
    from tuneloop.storage import files, paths

    for run_id in runs:
        KnownRun(run_id)  # refuses an id that points outside the artifacts
    if len(set(runs)) < 2:
        raise UsageError("compare: found one run id, expected at least two; add another")
    samples = {each: read_samples(paths.absolute(artifacts), each) for each in runs}
    rows = comparing.compare_samples(samples)
    if output is not None:
        from tuneloop.runs.reports.compare_page import render_page

        files.write(paths.absolute(output), render_page(rows, samples).encode())
    if as_json:
        print_json(comparing.as_json(rows))
    else:
        print_comparison(rows)
