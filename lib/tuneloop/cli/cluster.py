"""Verbs of runs on a cluster: render, check, submit, wait, status, logs, explain, cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tuneloop.cli import options
from tuneloop.cli.option_groups import ClusterOptions, KnownRun, RunOptions, expand_groups
from tuneloop.cli.options import Json, PollSeconds, print_json
from tuneloop.errors import SpecError, StageFailed

FOLLOW_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (render, check, submit, wait, status, logs, explain, cancel):
        app.command()(expand_groups(verb))


def render(
    run: RunOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
) -> None:
    """Write a run as plain YAML that `kubectl apply -f DIR` takes as it is."""
    from tuneloop.k8s.rendering.manifests import dump_files, stage_files
    from tuneloop.storage import files

    prepared = run.place_on_cluster()
    rendered = dump_files(stage_files(prepared.backend.submission))
    for name, text in rendered.items():
        files.write(str(output / name), text.encode())
    typer.echo(f"{output}: {len(rendered)} files of run {prepared.plan.run_id}")


def check(
    run: RunOptions,
    cluster: ClusterOptions,
    server: Annotated[
        bool, typer.Option("--server", help="Ask the cluster too: rights, queues, dry run.")
    ] = False,
) -> None:
    """Find what a cluster would refuse, before it is asked; writes nothing."""
    from tuneloop.k8s.checks.offline import check_documents, check_execution
    from tuneloop.k8s.checks.preflight import preflight
    from tuneloop.k8s.rendering.manifests import cluster_of, stage_files

    prepared = run.place_on_cluster()
    documents = stage_files(prepared.backend.submission)
    findings = check_execution(prepared.plan.spec.execution) + check_documents(documents)
    if server:
        placement = cluster_of(prepared.plan.spec)
        client = cluster.connect(placement.namespace)
        findings += preflight(client, documents, spec=placement, artifacts=prepared.plan.artifacts)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding}", err=True)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise SpecError(f"{run.spec}: {errors} problems, expected none; mend what is listed above")
    objects = sum(len(found) for found in documents.values())
    where = f"the cluster takes {objects}" if server else f"no problem in {objects}"
    typer.echo(f"{run.spec}: {where} objects of run {prepared.plan.run_id}")


def submit(
    run: RunOptions,
    cluster: ClusterOptions,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the sequence to a Job in the cluster.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a run on a cluster and return; `wait RUN_ID` goes on from any machine."""
    from tuneloop.cli import display, github
    from tuneloop.runs.sequence import Sequence

    prepared = run.place_on_cluster(cluster)
    with display.Progress(quiet=as_json) as view:
        sequence = Sequence(prepared.start(), display.sequence_callbacks(view))
        if not detach:
            stage = sequence.submit()
        elif (stage := sequence.next_stage()) is not None:
            prepared.backend.detach(stage)
    run_id = prepared.plan.run_id
    github.set_output(run_id=run_id, artifacts=prepared.plan.artifacts)
    if as_json:
        print_json({"run_id": run_id, "stage": stage, "detached": detach})
    elif stage is None:
        typer.echo(f"{run_id}: every stage has its record, nothing to do")
    else:
        goes_on = "its Job goes on by itself" if detach else "nothing goes on without wait"
        typer.echo(f"{run_id}: stage {stage} is submitted; {goes_on}:")
        typer.echo(f"tuneloop wait {run_id} --artifacts {prepared.plan.artifacts}")


def wait(
    run: KnownRun,
    cluster: ClusterOptions,
    poll_seconds: PollSeconds = 5.0,
    for_seconds: Annotated[
        float | None,
        typer.Option("--for-seconds", min=0, help="At most; then exit 32, and wait again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a submitted run to its end, stage after stage; stopped, it goes on when called again."""
    from tuneloop.cli import display, github
    from tuneloop.runs.sequence import Sequence

    run_id, backend = run.run_id, run.open_backend(cluster, poll_seconds)
    try:
        with display.Progress(quiet=as_json) as view:
            backend.connect()
            results = Sequence(backend, display.sequence_callbacks(view)).run(
                retry_failed=False, stop_on_interrupt=False, for_seconds=for_seconds
            )
    except StageFailed as e:
        github.annotate("error", f"{run_id}: {e.stage}", str(e))
        github.append_summary(f"### {run_id}: stage {e.stage} failed\n\n{e}")
        raise
    summary = options.print_run(backend.artifacts, run_id, results, as_json=as_json)
    accuracy = summary["accuracy"]
    github.annotate(
        "notice",
        run_id,
        f"accuracy {100 * accuracy['base']:.1f} % -> {100 * accuracy['tuned']:.1f} %",
    )
    github.append_summary(display.report_text(summary))


def status(
    run: KnownRun,
    cluster: ClusterOptions,
    as_json: Json = False,
) -> None:
    """Show where a submitted run is; reads only."""
    from dataclasses import asdict

    from tuneloop.cli import display
    from tuneloop.runs.status import run_status

    stages = run_status(run.open_backend(cluster))
    if as_json:
        print_json({"run_id": run.run_id, "stages": [asdict(stage) for stage in stages]})
    else:
        display.print_status(run.run_id, stages)


def explain(
    run: KnownRun,
    cluster: ClusterOptions,
) -> None:
    """Say why a run is where it is: one verdict with its evidence and what to do."""
    from tuneloop.cli import display
    from tuneloop.runs.status import run_status

    stages = run_status(run.open_backend(cluster))
    stage = next((stage for stage in stages if stage.state != "done"), None)
    if stage is None:
        typer.echo(f"{run.run_id}: every stage has its record")
    else:
        display.print_explanation(stage)


def logs(
    run: KnownRun,
    stage: Annotated[str | None, typer.Argument(help="Of the run's stages; the latest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
) -> None:
    """Print a stage's log, from where the stage itself keeps it; needs no cluster."""
    from tuneloop.runs.logs import read_log

    submission = run.load_submission()
    seen = 0
    while True:
        log = read_log(submission, stage)
        typer.echo(log.text[seen:], nl=False)
        stage, seen = log.stage, len(log.text)
        if not follow or log.has_ended:
            return
        time.sleep(FOLLOW_SECONDS)


def cancel(
    run: KnownRun,
    cluster: ClusterOptions,
) -> None:
    """Delete what a run has in the cluster; records and checkpoints stay."""
    deleted = run.open_backend(cluster).cancel_run()
    typer.echo(f"{run.run_id}: deleted {', '.join(deleted) or 'nothing, nothing was there'}")
