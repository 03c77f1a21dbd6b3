"""Verbs of runs on a cluster: render, check, submit, wait, status, logs, explain, cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.cli import options
from tuneloop.cli.options import (
    DEFAULT_ARTIFACTS,
    AllowTag,
    ArtifactsUrl,
    Context,
    DatasetKey,
    Image,
    Json,
    Kubeconfig,
    PollSeconds,
    RunArtifacts,
    RunId,
    RunSeed,
    RunStoreUrl,
    SpecFile,
    print_json,
)
from tuneloop.errors import SpecError, StageFailed

if TYPE_CHECKING:
    from tuneloop.artifacts.submission import Submission
    from tuneloop.k8s.backend import KubernetesBackend

FOLLOW_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (render, check, submit, wait, status, logs, explain, cancel):
        app.command()(verb)


def render(
    spec: SpecFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    image: Image = None,
    allow_tag: AllowTag = False,
    dataset: DatasetKey = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
) -> None:
    """Write a run as plain YAML that `kubectl apply -f DIR` takes as it is."""
    from tuneloop.k8s.rendering.manifests import dump_files, stage_files
    from tuneloop.storage import files

    placed = options.load_spec(spec, dataset, artifacts, store)
    prepared = options.cluster_plan(placed, seed, options.target(image, allow_tag))
    rendered = dump_files(stage_files(prepared.backend.submission))
    for name, text in rendered.items():
        files.write(str(output / name), text.encode())
    typer.echo(f"{output}: {len(rendered)} files of run {prepared.plan.run_id}")


def check(
    spec: SpecFile,
    server: Annotated[
        bool, typer.Option("--server", help="Ask the cluster too: rights, queues, dry run.")
    ] = False,
    image: Image = None,
    allow_tag: AllowTag = False,
    dataset: DatasetKey = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Find what a cluster would refuse, before it is asked; writes nothing."""
    from tuneloop.k8s.checks.offline import check_documents, check_execution
    from tuneloop.k8s.checks.preflight import preflight
    from tuneloop.k8s.rendering.manifests import cluster_of, stage_files

    placed = options.load_spec(spec, dataset, artifacts, store)
    prepared = options.cluster_plan(placed, seed, options.target(image, allow_tag))
    documents = stage_files(prepared.backend.submission)
    findings = check_execution(prepared.plan.spec.execution) + check_documents(documents)
    if server:
        placement = cluster_of(prepared.plan.spec)
        cluster = options.connect(placement.namespace, context, kubeconfig)
        findings += preflight(cluster, documents, spec=placement, artifacts=prepared.plan.artifacts)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding}", err=True)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise SpecError(f"{spec}: {errors} problems, expected none; mend what is listed above")
    objects = sum(len(found) for found in documents.values())
    where = f"the cluster takes {objects}" if server else f"no problem in {objects}"
    typer.echo(f"{spec}: {where} objects of run {prepared.plan.run_id}")


def submit(
    spec: SpecFile,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the sequence to a Job in the cluster.")
    ] = False,
    image: Image = None,
    allow_tag: AllowTag = False,
    dataset: DatasetKey = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Start a run on a cluster and return; `wait RUN_ID` goes on from any machine."""
    from tuneloop.cli import display, github
    from tuneloop.runs.sequence import Sequence

    placed = options.load_spec(spec, dataset, artifacts, store)
    target = options.target(image, allow_tag, context, kubeconfig)
    prepared = options.cluster_plan(placed, seed, target)
    with display.Progress(quiet=as_json) as view:
        sequence = Sequence(prepared.start(), display.sequence_view(view))
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
    run_id: RunId,
    artifacts: RunArtifacts = DEFAULT_ARTIFACTS,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
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

    submission = _submission(run_id, artifacts)
    try:
        with display.Progress(quiet=as_json) as view:
            backend = _backend(submission, context, kubeconfig, poll_seconds)
            backend.connect()
            results = Sequence(backend, display.sequence_view(view)).run(
                retry_failed=False, stop_on_interrupt=False, for_seconds=for_seconds
            )
    except StageFailed as e:
        github.annotate("error", f"{run_id}: {e.stage}", str(e))
        github.append_summary(f"### {run_id}: stage {e.stage} failed\n\n{e}")
        raise
    summary = options.print_run(submission.artifacts, run_id, results, as_json=as_json)
    accuracy = summary["accuracy"]
    github.annotate(
        "notice",
        run_id,
        f"accuracy {100 * accuracy['base']:.1f} % -> {100 * accuracy['tuned']:.1f} %",
    )
    github.append_summary(display.report_text(summary))


def status(
    run_id: RunId,
    artifacts: RunArtifacts = DEFAULT_ARTIFACTS,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Show where a submitted run is; reads only."""
    from dataclasses import asdict

    from tuneloop.cli import display
    from tuneloop.runs.status import run_status

    stages = run_status(_backend(_submission(run_id, artifacts), context, kubeconfig))
    if as_json:
        print_json({"run_id": run_id, "stages": [asdict(stage) for stage in stages]})
    else:
        display.print_status(run_id, stages)


def explain(
    run_id: RunId,
    artifacts: RunArtifacts = DEFAULT_ARTIFACTS,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say why a run is where it is: one verdict with its evidence and what to do."""
    from tuneloop.cli import display
    from tuneloop.runs.status import run_status

    stages = run_status(_backend(_submission(run_id, artifacts), context, kubeconfig))
    stage = next((stage for stage in stages if stage.state != "done"), None)
    if stage is None:
        typer.echo(f"{run_id}: every stage has its record")
    else:
        display.print_explanation(stage)


def logs(
    run_id: RunId,
    stage: Annotated[str | None, typer.Argument(help="Of the run's stages; the latest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    artifacts: RunArtifacts = DEFAULT_ARTIFACTS,
) -> None:
    """Print a stage's log, from where the stage itself keeps it; needs no cluster."""
    from tuneloop.runs.logs import read_log

    submission = _submission(run_id, artifacts)
    seen = 0
    while True:
        log = read_log(submission, stage)
        typer.echo(log.text[seen:], nl=False)
        stage, seen = log.stage, len(log.text)
        if not follow or log.has_ended:
            return
        time.sleep(FOLLOW_SECONDS)


def cancel(
    run_id: RunId,
    artifacts: RunArtifacts = DEFAULT_ARTIFACTS,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete what a run has in the cluster; records and checkpoints stay."""
    backend = _backend(_submission(run_id, artifacts), context, kubeconfig)
    deleted = backend.cancel_run()
    typer.echo(f"{run_id}: deleted {', '.join(deleted) or 'nothing, nothing was there'}")


def _backend(
    submission: Submission,
    context: str | None,
    kubeconfig: str | None,
    poll_seconds: float = 5.0,
) -> KubernetesBackend:
    """Open a submitted run; its cluster is connected to when it is first needed."""
    from tuneloop.k8s.backend import KubernetesBackend

    return KubernetesBackend(
        submission,
        lambda: options.connect(submission.namespace, context, kubeconfig),
        poll_seconds=poll_seconds,
    )


def _submission(run_id: str, artifacts: str) -> Submission:
    from tuneloop.artifacts.submission import load_submission
    from tuneloop.storage import paths

    return load_submission(paths.absolute(artifacts), options.checked_run_id(run_id))
