"""The verb `trigger`, which runs the loop when the trace store has enough new traces."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.cli.option_groups import ClusterOptions, RunOptions, expand_groups
from tuneloop.cli.options import MOST, Json, print_json
from tuneloop.errors import StageFailed, UsageError

if TYPE_CHECKING:
    from tuneloop.runs.backend import Backend
    from tuneloop.runs.prepare import Prepared
    from tuneloop.runs.triggers.trigger import Decision


PASSING = (20, 21, 30)
"""Exit codes of verbs for failures of the infrastructure and for cancelled runs, which the next
trigger continues."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(expand_groups(trigger))


def trigger(
    run: RunOptions,
    cluster: ClusterOptions,
    new_traces: Annotated[
        int,
        typer.Option(
            "--new-traces",
            min=1,
            max=MOST,
            help="Number of new traces that start the loop. Traces of its own evaluations and"
            " samples do not count.",
        ),
    ] = 100,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Count only traces with this meta.source."),
    ] = None,
    backend: Annotated[
        Literal["local", "cluster"],
        typer.Option(
            help="local: run on this machine, and wait. cluster: submit to Kubernetes as `submit"
            " --detach` does, and return."
        ),
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a spec on new traces, if the store has enough of them; do nothing otherwise.

    Call it from a schedule. The dataset of the spec is the pattern of the new dataset: the same
    filters, recipe and seed, with the traces that the store has now.
    """
    from tuneloop.cli.control.rounds import refuse_rounds
    from tuneloop.runs.triggers import trigger as triggers
    from tuneloop.traces.client import TraceClient

    refuse_rounds(run, "trigger")
    _refuse_sweep(run)
    spec = run.load_training_spec()
    condition = triggers.Condition(new_traces, source)
    with TraceClient(spec.execution.store_url) as client:

        def prepare(decision: Decision) -> Prepared[Backend] | None:
            """Build the dataset of a start and plan its run; None if there is nothing to do."""
            if decision.start is None or decision.action == "nothing" or dry_run:
                return None
            key = triggers.build_dataset(spec, decision.start, client)
            return _prepare(replace(run, dataset=key), cluster, backend)

        now = datetime.now(UTC)
        decision = triggers.decide(spec, condition, client, now=now, claim=not dry_run)
        prepared = prepare(decision)
        if prepared and decision.run_id not in (None, prepared.plan.run_id):
            typer.echo(
                f"warning: run {decision.run_id} is unfinished, and the spec or the code has"
                " changed since, so it is not continued",
                err=True,
            )
            decision = triggers.count(spec, condition, client, now=now)
            prepared = prepare(decision)
    if prepared is not None:
        _start(prepared, decision, detach=backend == "cluster", quiet=as_json)
    run_id = prepared.plan.run_id if prepared else None
    if as_json:
        print_json({**decision.as_json(), "run_id": run_id, "dry_run": dry_run})
    else:
        typer.echo(_sentence(spec.name, decision, run_id, dry_run=dry_run))


def _refuse_sweep(run: RunOptions) -> None:
    if run.load_sweep() is not None:
        raise UsageError(
            f"{run.spec}: is a sweep, expected the spec of one run, because each start has one"
            " dataset; remove the key `sweep`"
        )


def _prepare(run: RunOptions, cluster: ClusterOptions, backend: str) -> Prepared[Backend]:
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.prepare import prepare

    return prepare(load_backend(backend), run.load_spec(), run.target(cluster), seed=run.seed)


def _start(prepared: Prepared[Backend], decision: Decision, *, detach: bool, quiet: bool) -> None:
    """Start or continue the run of a start; on this machine, wait for it."""
    from tuneloop.artifacts.triggers import publish_failure, publish_run
    from tuneloop.cli.live.progress import Progress, sequence_callbacks
    from tuneloop.runs.notifications.notifier import notifier_of_spec
    from tuneloop.runs.sequence import Sequence

    plan = prepared.plan
    with Progress(quiet=quiet) as view:
        placed = prepared.start()
        if decision.start is not None:
            publish_run(decision.start, plan.run_id, plan.artifacts)
        callbacks = sequence_callbacks(view)
        if detach:
            _detach(placed, Sequence(placed, callbacks).next_stage())
            return
        with notifier_of_spec(plan.run_id, plan.spec, view.warn) as notifier:
            sequence = Sequence(placed, notifier.watch(callbacks))
            try:
                sequence.run(retry_failed=True, stop_on_interrupt=True)
            except StageFailed as e:
                if e.exit_code not in PASSING and decision.start is not None:
                    publish_failure(decision.start, str(e), plan.artifacts)
                raise


def _detach(placed: Backend, stage: str | None) -> None:
    """Let a Job in the cluster run the stages, beginning with this one; None if all are done."""
    from tuneloop.k8s.backend import KubernetesBackend

    if stage is not None and isinstance(placed, KubernetesBackend):
        placed.detach(stage)


def _sentence(name: str, decision: Decision, run_id: str | None, *, dry_run: bool) -> str:
    found, needed, start = decision.new_traces, decision.needed, decision.start
    since = f" since {start.position}" if start and decision.action == "nothing" else ""
    words = f"{name}: {min(found, needed)} of {needed} new traces{since}"
    if decision.action == "nothing" or start is None:
        return f"{words}; nothing to do"
    if dry_run:
        verb = "continue" if decision.action == "continue" else "build"
        return f"{words}; would {verb} dataset {start.dataset_key} and run it"
    return f"{words}; dataset {start.dataset_key}, run {run_id}"
