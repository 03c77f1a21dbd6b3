"""Verbs that plan and run: demo, plan, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuneloop.cli import options
from tuneloop.cli.options import (
    AllowTag,
    ArtifactsUrl,
    Context,
    DatasetKey,
    Image,
    Json,
    Kubeconfig,
    NewSeed,
    PollSeconds,
    RunSeed,
    RunStoreUrl,
    SpecFile,
    print_json,
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (demo, run, plan):
        app.command()(verb)


def demo(
    workdir: Annotated[
        Path, typer.Option(help="Gets store.db and artifacts/; run again to continue.")
    ] = Path(".tuneloop/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole loop on this machine: traces, dataset, export, train, eval, import."""
    from tuneloop.cli import display
    from tuneloop.demo.loop import run_demo

    view = display.Progress(quiet=as_json)
    with view:
        result = run_demo(
            workdir,
            stored=lambda count, key: view.line(f"store    {count} traces, dataset {key}"),
            planned=lambda plan: view.line(f"run      {plan.run_id}"),
            started=view.started,
            progress=view.progress,
            finished=view.finished,
        )
    options.print_run(result.plan.artifacts, result.plan.run_id, result.stages, as_json=as_json)


def run(
    spec: SpecFile,
    backend: Annotated[
        str, typer.Option(help="local (this machine), or cluster (Kubernetes).")
    ] = "local",
    dataset: DatasetKey = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
    new_seed: NewSeed = False,
    image: Image = None,
    allow_tag: AllowTag = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    poll_seconds: PollSeconds = 5.0,
    as_json: Json = False,
) -> None:
    """Run a spec, stage after stage, here or on a cluster; run again to continue."""
    from tuneloop.cli import display
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.prepare import prepare
    from tuneloop.runs.sequence import Sequence

    kind = load_backend(backend)
    placed = options.load_spec(spec, dataset, artifacts, store)
    chosen = options.chosen_seed(seed, new_seed)
    target = options.target(image, allow_tag, context, kubeconfig, poll_seconds)
    prepared = prepare(kind, placed, target, seed=chosen)
    made = prepared.plan
    with display.Progress(quiet=as_json) as view:
        sequence = Sequence(prepared.start(), display.sequence_view(view))
        view.line(f"run      {made.run_id}")
        results = sequence.run(retry_failed=True, stop_on_interrupt=True)
    options.print_run(made.artifacts, made.run_id, results, as_json=as_json)


def plan(
    spec: SpecFile,
    dataset: DatasetKey = None,
    artifacts: ArtifactsUrl = None,
    seed: RunSeed = None,
    image: Image = None,
    allow_tag: AllowTag = False,
    as_json: Json = False,
) -> None:
    """Show what a run would do: stages, what is cached, where and on what. Writes nothing."""
    from tuneloop.cli import display
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.plan_table import plan_rows
    from tuneloop.runs.prepare import prepare

    placed = options.load_spec(spec, dataset, artifacts, None)
    cluster = placed.execution.cluster
    backend = "kubernetes" if image or (cluster and cluster.image) else "local"
    target = options.target(image, allow_tag)
    prepared = prepare(load_backend(backend), placed, target, seed=seed)
    made, rows = prepared.plan, plan_rows(prepared.plan, prepared.backend)
    if as_json:
        stages = [row.as_json() for row in rows]
        print_json({"run_id": made.run_id, "seed": made.seed, "stages": stages})
        return
    display.print_plan(made.run_id, made.seed, rows)
