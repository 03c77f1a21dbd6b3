"""Verbs of runs on a cluster: render, check, submit, wait, status, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.cli.control import detached, rounds, sweeps
from tuneloop.cli.shared import options
from tuneloop.cli.shared.option_groups import (
    ClusterOptions,
    KnownRun,
    OneRun,
    RunOptions,
    expand_groups,
)
from tuneloop.cli.shared.options import MOST_SECONDS, STDOUT, Json, PollSeconds, Prices, print_json
from tuneloop.errors import SpecError, StageFailed, UsageError

if TYPE_CHECKING:
    from tuneloop.runs.status import StageStatus


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (render, check, submit, wait, status, explain):
        app.command()(expand_groups(verb))


def render(
    run: RunOptions,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Folder that receives the YAML files; - writes one stream to standard output, for"
            " `kubectl apply -f -`.",
        ),
    ],
) -> None:
    """Write a run or a sweep as plain YAML. `kubectl apply -f DIR` then runs all of it."""
    from tuneloop.k8s.rendering.stale import applied_stream, refuse_stale_files
    from tuneloop.storage import files, paths

    rounds.refuse_rounds(run, "render")
    output = paths.normal(output)
    if (sweep := run.load_sweep()) is not None:
        from tuneloop.k8s.sweeps import sweep_files

        made, submission = detached.plan_for_cluster(run, sweep)
        rendered, what = sweep_files(submission), f"sweep {made.sweep_id}"
    else:
        prepared = run.place_on_cluster()
        rendered, what = prepared.backend.files(), f"run {prepared.plan.run_id}"
    if output == STDOUT:
        typer.echo(applied_stream(rendered), nl=False)
        return
    refuse_stale_files(Path(output), rendered)
    for name, text in rendered.items():
        files.write(paths.join(output, name), text.encode())
    typer.echo(f"{output}: {len(rendered)} files of {what}")


def check(
    run: RunOptions,
    cluster: ClusterOptions,
    server: Annotated[
        bool,
        typer.Option(
            "--server",
            help="Also check rights, queues and a dry run on the cluster and the images in their"
            " registry, and write and delete a small object at the artifacts URL.",
        ),
    ] = False,
) -> None:
    """Check a run for problems on a cluster. Create nothing there."""
    from tuneloop.k8s.backend import train_devices
    from tuneloop.k8s.checks.base_model import check_base_model, check_host_memory
    from tuneloop.k8s.checks.execution import check_execution
    from tuneloop.k8s.checks.offline import check_documents
    from tuneloop.k8s.rendering.manifests import cluster_of, stage_files
    from tuneloop.runs.planning.train_step import find_step

    prepared = run.place_on_cluster()
    documents = stage_files(prepared.backend.submission)
    execution = prepared.plan.spec.execution
    stages = [stage.stage for stage in prepared.plan.stages]
    findings = check_execution(execution, stages)
    if prepared.plan.model is not None:
        findings += check_base_model(prepared.plan.model, execution, stages)
    step = find_step(prepared.plan, train_devices(cluster_of(prepared.plan.spec)))
    if step is not None:
        findings += check_host_memory(step.host.peak_bytes, execution)
    findings += check_documents(documents)
    if server:
        from tuneloop.k8s.checks.preflight import preflight

        placement = cluster_of(prepared.plan.spec)
        client = cluster.connect(placement.namespace)
        findings += preflight(client, documents, spec=placement, artifacts=prepared.plan.artifacts)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding}", err=True)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise SpecError(f"{run.spec}: {errors} problems, expected none; fix the problems above")
    objects = sum(len(found) for found in documents.values())
    where = f"the cluster accepts {objects}" if server else f"no problem in {objects}"
    typer.echo(f"{run.spec}: {where} objects of run {prepared.plan.run_id}")


def submit(
    run: RunOptions,
    cluster: ClusterOptions,
    detach: Annotated[
        bool, typer.Option("--detach", help="Let a Job in the cluster submit the stages.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a run to a cluster and return. Continue with `wait RUN_ID` on any machine."""
    from tuneloop.cli.live.progress import Progress, sequence_callbacks
    from tuneloop.cli.shared import github
    from tuneloop.runs.sequence import Sequence

    rounds.refuse_rounds(run, "submit")
    if (sweep := run.load_sweep()) is not None:
        made, submission = detached.plan_for_cluster(run, sweep, cluster)
        github.set_output(sweep_id=made.sweep_id, artifacts=made.artifacts)
        if detach:
            detached.submit_detached(made, submission, as_json=as_json)
        else:
            sweeps.submit_sweep(made, as_json=as_json)
        return
    prepared = run.place_on_cluster(cluster)
    with Progress(quiet=as_json) as view:
        sequence = Sequence(prepared.start(), sequence_callbacks(view))
        if not detach:
            stage = sequence.submit()
        elif (stage := sequence.next_stage()) is not None:
            prepared.backend.detach(stage)
    run_id = prepared.plan.run_id
    github.set_output(run_id=run_id, artifacts=prepared.plan.artifacts)
    if as_json:
        print_json({"run_id": run_id, "stage": stage, "detached": detach})
    elif stage is None:
        typer.echo(f"{run_id}: every stage is done, nothing to submit")
    else:
        follow_up = "a Job submits the other stages" if detach else "continue with"
        typer.echo(f"{run_id}: submitted stage {stage}; {follow_up}:")
        typer.echo(f"tuneloop wait {run_id} --artifacts {prepared.plan.artifacts}")


def wait(
    run: KnownRun,
    cluster: ClusterOptions,
    poll_seconds: PollSeconds = 5.0,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for-seconds",
            min=0,
            max=MOST_SECONDS,
            help="Maximum seconds to wait; exit code 32 if the run is not done.",
        ),
    ] = None,
    prices: Prices = None,
    as_json: Json = False,
) -> None:
    """Wait for a submitted run, stage after stage. Call again to continue."""
    from tuneloop.cli.live.progress import Progress, sequence_callbacks
    from tuneloop.cli.shared import display, github, summaries
    from tuneloop.runs.notifications.notifier import notifier_of_submission
    from tuneloop.runs.sequence import Sequence

    options.load_prices(prices)  # a wrong one is refused before the wait, not after it
    if (sweep := sweeps.find_sweep_of(run)) is not None:
        first = options.find_run_manifest(run.artifacts_url, sweep.members[0].run_id)
        listed = options.prices_of_run(prices, first)
        pace = (poll_seconds, for_seconds)
        sweeps.wait_for_sweep(sweep, run, cluster, *pace, listed, as_json=as_json)
        return
    run_id, backend = run.run_id, run.open_backend(cluster, poll_seconds)
    try:
        with Progress(quiet=as_json) as view:
            backend.connect()
            with notifier_of_submission(
                backend.submission, view.warn, backend.is_confirmed
            ) as notifier:
                results = Sequence(backend, notifier.watch(sequence_callbacks(view))).run(
                    retry_failed=False, stop_on_interrupt=False, for_seconds=for_seconds
                )
    except StageFailed as e:
        github.annotate("error", f"{run_id}: {e.stage}", str(e))
        github.append_summary(f"### {run_id}: stage {e.stage} failed\n\n{e}")
        raise
    manifest = options.find_run_manifest(backend.artifacts, run_id)
    listed = options.prices_of_run(prices, manifest)
    summary = options.print_run(backend.artifacts, run_id, results, as_json=as_json, prices=listed)
    github.annotate("notice", run_id, summaries.headline(summary))
    github.append_summary(display.report_text(summary))


def status(
    run: KnownRun,
    cluster: ClusterOptions,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Show the table of a sweep until all members have ended."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the status of a run, of a sweep, or of rounds."""
    from dataclasses import asdict

    from tuneloop.cli.shared import display

    if (sweep := sweeps.find_sweep_of(run)) is not None:
        if follow and not as_json:
            sweeps.follow_sweep(sweep, run.artifacts_url)
        else:
            sweeps.print_sweep_status(sweep, run.artifacts_url, as_json=as_json)
        return
    if (found := rounds.find_rounds_of(run)) is not None:
        rounds.print_rounds_status(found, run.artifacts_url, as_json=as_json)
        return
    if follow:
        raise UsageError(
            f"--follow: found run {run.run_id}, expected a sweep; follow a run with `tuneloop wait`"
            " or `tuneloop logs --follow`"
        )
    stages = _stages_of(run, cluster)
    if as_json:
        print_json({"run_id": run.run_id, "stages": [asdict(stage) for stage in stages]})
    else:
        display.print_status(run.run_id, stages)


def _stages_of(run: KnownRun, cluster: ClusterOptions) -> list[StageStatus]:
    """Return the status of each stage; only a submitted run has a cluster to ask."""
    from datetime import UTC, datetime

    from tuneloop.artifacts.runs.submission import submission_url
    from tuneloop.cli.history.local_status import local_status
    from tuneloop.runs.status import run_status
    from tuneloop.storage import files

    if not files.exists(submission_url(run.artifacts_url, run.run_id)):
        found = local_status(run.artifacts_url, run.run_id, now=datetime.now(UTC))
        if found is not None:
            return found
    return run_status(run.open_backend(cluster))


def explain(
    run: OneRun,
    cluster: ClusterOptions,
) -> None:
    """Explain the state of a run: cause, evidence and fix."""
    from tuneloop.cli.shared import display

    stages = _stages_of(run, cluster)
    stage = next((stage for stage in stages if stage.state != "done"), None)
    if stage is None:
        typer.echo(f"{run.run_id}: every stage is done")
    else:
        display.print_explanation(stage)
