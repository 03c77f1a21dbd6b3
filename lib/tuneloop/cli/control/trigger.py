"""The verb `trigger`, which runs the loop when the trace store has enough new traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.cli.shared.option_groups import ClusterOptions, RunOptions, expand_groups
from tuneloop.cli.shared.options import MOST, Json, print_json
from tuneloop.errors import PASSING_EXIT_CODES, StageFailed, UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.runs.triggers import Start
    from tuneloop.runs.backend import Backend
    from tuneloop.runs.planning.prepare import Prepared
    from tuneloop.runs.rounds.plan import RoundsPlan
    from tuneloop.runs.rounds.spec_file import RoundsFile
    from tuneloop.runs.triggers.trigger import Decision


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
            help="local: run on this machine, and wait. cluster: submit a run to Kubernetes as"
            " `submit --detach` does, and return; for rounds, supervise their Jobs until they end,"
            " or until the next call continues."
        ),
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a spec on new traces, if the store has enough of them; do nothing otherwise.

    Call it from a schedule, with the spec of a run or of rounds. The dataset of the spec is the
    pattern of the new dataset: the same filters, recipe and seed, with the traces that the store
    has now.
    """
    from tuneloop.runs.triggers import trigger as triggers
    from tuneloop.traces.client import TraceClient

    rounds = run.load_rounds()
    _refuse_sweep(run)
    spec = run.with_options(rounds.spec) if rounds else run.load_training_spec()
    condition = triggers.Condition(new_traces, source)
    with TraceClient(spec.execution.store_url) as client:

        def plan(decision: Decision) -> _Planned | None:
            """Build the dataset of a start, and plan with it; None if there is nothing to do."""
            if decision.start is None or decision.action == "nothing" or dry_run:
                return None
            key = triggers.build_dataset(spec, decision.start, client)
            chosen = replace(run, dataset=key)
            if rounds is not None:
                return _plan_rounds(chosen, rounds, cluster, backend)
            return _plan_run(chosen, cluster, backend)

        now = datetime.now(UTC)
        decision = triggers.decide(spec, condition, client, now=now, claim=not dry_run)
        planned = plan(decision)
        if planned and decision.run_id not in (None, planned.id):
            typer.echo(
                f"warning: {decision.run_id} is unfinished, and the spec or the code has changed"
                " since, so it is not continued",
                err=True,
            )
            decision = triggers.count(spec, condition, client, now=now)
            planned = plan(decision)
    if planned is not None and decision.start is not None:
        planned.start(decision.start, as_json)
    if as_json:
        run_id = planned.id if planned else None
        print_json({**decision.as_json(), "run_id": run_id, "dry_run": dry_run})
    else:
        what = f"{'rounds' if rounds else 'run'} {planned.id}" if planned else ""
        typer.echo(_sentence(spec.name, decision, what, dry_run=dry_run))


@dataclass(frozen=True)
class _Planned:
    """A planned run, or planned rounds."""

    id: str
    """Id of the run or of the rounds."""
    start: Callable[[Start, bool], None]
    """(start of the trigger, whether nothing is printed): starts or continues it."""


def _refuse_sweep(run: RunOptions) -> None:
    if run.load_sweep() is not None:
        raise UsageError(
            f"{run.spec}: is a sweep, expected the spec of one run or of rounds, because each start"
            " has one dataset; remove the key `sweep`"
        )


def _plan_run(run: RunOptions, cluster: ClusterOptions, backend: str) -> _Planned:
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.planning.prepare import prepare

    prepared = prepare(load_backend(backend), run.load_spec(), run.target(cluster), seed=run.seed)
    return _Planned(
        prepared.plan.run_id,
        lambda start, quiet: _start_run(prepared, start, detach=backend == "cluster", quiet=quiet),
    )


def _plan_rounds(
    run: RunOptions, rounds: RoundsFile, cluster: ClusterOptions, backend: str
) -> _Planned:
    from tuneloop.cli.control.rounds import plan_of
    from tuneloop.runs.backend import load_backend

    made = plan_of(run, rounds, load_backend(backend), cluster)
    return _Planned(
        made.rounds_id,
        lambda start, quiet: _start_rounds(made, start, is_local=backend == "local", quiet=quiet),
    )


def _start_rounds(made: RoundsPlan, start: Start, *, is_local: bool, quiet: bool) -> None:
    """Start or continue the rounds of a start, and wait for them.

    An interrupt leaves the Jobs of a cluster running, because a pod is also interrupted when it is
    evicted, and the next trigger continues.
    """
    from tuneloop.artifacts.runs.triggers import publish_run
    from tuneloop.cli.control.rounds import run_rounds

    run_rounds(
        made,
        as_json=False,
        quiet=quiet,
        started=lambda: publish_run(start, made.rounds_id, made.artifacts),
        stop_on_interrupt=is_local,
    )


def _start_run(prepared: Prepared[Backend], start: Start, *, detach: bool, quiet: bool) -> None:
    """Start or continue the run of a start; on this machine, wait for it."""
    from tuneloop.artifacts.runs.triggers import publish_failure, publish_run
    from tuneloop.cli.live.progress import Progress, sequence_callbacks
    from tuneloop.runs.notifications.notifier import notifier_of_spec
    from tuneloop.runs.sequence import Sequence

    plan = prepared.plan
    with Progress(quiet=quiet) as view:
        placed = prepared.start()
        publish_run(start, plan.run_id, plan.artifacts)
        callbacks = sequence_callbacks(view)
        if detach:
            _detach(placed, Sequence(placed, callbacks).next_stage())
            return
        with notifier_of_spec(plan.run_id, plan.spec, view.warn) as notifier:
            sequence = Sequence(placed, notifier.watch(callbacks))
            try:
                sequence.run(retry_failed=True, stop_on_interrupt=True)
            except StageFailed as e:
                if e.exit_code not in PASSING_EXIT_CODES:
                    publish_failure(start, str(e), plan.artifacts)
                raise


def _detach(placed: Backend, stage: str | None) -> None:
    """Let a Job in the cluster run the stages, beginning with this one; None if all are done."""
    from tuneloop.k8s.backend import KubernetesBackend

    if stage is not None and isinstance(placed, KubernetesBackend):
        placed.detach(stage)


def _sentence(name: str, decision: Decision, what: str, *, dry_run: bool) -> str:
    found, needed, start = decision.new_traces, decision.needed, decision.start
    since = f" since {start.position}" if start and decision.action == "nothing" else ""
    words = f"{name}: {min(found, needed)} of {needed} new traces{since}"
    if decision.action == "nothing" or start is None:
        return f"{words}; nothing to do"
    if dry_run:
        verb = "continue" if decision.action == "continue" else "build"
        return f"{words}; would {verb} dataset {start.dataset_key} and run it"
    return f"{words}; dataset {start.dataset_key}, {what}"
