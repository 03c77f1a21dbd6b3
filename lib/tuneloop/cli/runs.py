"""Verbs that plan and run: demo, plan, run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.cli.shared import options
from tuneloop.cli.shared.option_groups import (
    DEFAULT_POLL_SECONDS,
    ClusterOptions,
    RunOptions,
    expand_groups,
)
from tuneloop.cli.shared.options import (
    MOST,
    MOST_SECONDS,
    Json,
    NewSeed,
    PollSeconds,
    Prices,
    environment_value,
    print_json,
)
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.history.cost.prices import PriceList
    from tuneloop.k8s.checks.offline import Finding
    from tuneloop.runs.planning.any_plan import AnyPlan
    from tuneloop.runs.planning.plan_table import PlanRow
    from tuneloop.runs.planning.train_step import PlannedStep, StepReport
    from tuneloop.specs.cluster import ClusterSpec
    from tuneloop.specs.run import ExecutionSpec
    from tuneloop.specs.training.compilation import TargetDevices


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(demo)
    for verb in (run, plan):
        app.command()(expand_groups(verb))


def demo(
    workdir: Annotated[
        str | None,
        typer.Option(
            help="Folder for store.db and artifacts/; run again to continue. The default is"
            " .tuneloop/demo, .tuneloop/real with --real, or .tuneloop/rounds with --rounds.",
            show_default=False,
        ),
    ] = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Tune a published model, SmolLM2-135M-Instruct, instead of a tiny one with random"
            " weights. Takes a quarter of an hour on two cores.",
        ),
    ] = False,
    rounds: Annotated[
        bool,
        typer.Option(
            "--rounds",
            help="Run rounds that sample from a tiny model, select and train again, with matched"
            " controls and five seeds. Needs no trace store.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop on this machine with demo traces."""
    from tuneloop.cli.live.progress import Progress
    from tuneloop.demo.loop import REAL, TINY, run_demo
    from tuneloop.storage import paths

    if real and rounds:
        raise UsageError("--rounds: found with --real, expected one of the two; remove one")
    if workdir is None:
        workdir = f".tuneloop/{'rounds' if rounds else 'real' if real else 'demo'}"
    if rounds:
        from tuneloop.cli.control.rounds import run_rounds
        from tuneloop.demo.rounds import prepare_demo

        say = (lambda line: None) if as_json else (lambda line: typer.echo(line, err=True))
        run_rounds(prepare_demo(Path(paths.absolute(workdir)), say), as_json=as_json)
        return
    view = Progress(quiet=as_json)
    with view:
        result = run_demo(
            REAL if real else TINY,
            Path(paths.absolute(workdir)),
            say=view.line,
            planned=lambda plan: view.line(_headline(plan)),
            started=view.started,
            progress=view.progress,
            finished=view.finished,
        )
    options.print_run(result.plan.artifacts, result.plan.run_id, result.stages, as_json=as_json)


def _headline(plan: AnyPlan) -> str:
    model = "" if plan.model is None else f"\nmodel    {plan.model.words}"
    return f"run      {plan.run_id}{model}"


def run(
    run: RunOptions,
    cluster: ClusterOptions,
    backend: Annotated[
        str, typer.Option(help="local (this machine) or cluster (Kubernetes).")
    ] = "local",
    new_seed: NewSeed = False,
    poll_seconds: PollSeconds = DEFAULT_POLL_SECONDS,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the digests of all cached files, however large they are."
        ),
    ] = False,
    verify_below: Annotated[
        int | None,
        typer.Option(
            "--verify-below",
            metavar="MIB",
            min=0,
            max=MOST,
            help="Size of cached files up to which digests are checked; sizes always are. Default:"
            " the variable TUNELOOP_VERIFY_BELOW, else 64.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a spec on this machine or on a cluster. Run again to continue."""
    from tuneloop.cli.live.progress import Progress, sequence_callbacks
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.notifications.notifier import notifier_of_spec
    from tuneloop.runs.planning.prepare import prepare
    from tuneloop.runs.sequence import Sequence

    kind = load_backend(backend)
    checked_mib = environment_value("verify_below") if verify_below is None else verify_below
    verification: dict[str, Any] = {
        "verify_all": verify,
        "verify_file_bytes": checked_mib << 20,
    }
    seed = options.chosen_seed(run.seed, new_seed)
    if (rounds := run.load_rounds()) is not None:
        from tuneloop.cli.control.rounds import plan_of, run_rounds

        chosen = replace(run, seed=seed)
        run_rounds(
            plan_of(chosen, rounds, kind, cluster, poll_seconds),
            as_json=as_json,
            **verification,
        )
        return
    if (sweep := run.load_sweep()) is not None:
        from tuneloop.cli.control import sweeps

        planned = sweeps.plan_members(replace(run, seed=seed), sweep, kind, cluster, poll_seconds)
        is_local = backend == "local"
        sweeps.run_sweep(planned, is_local=is_local, as_json=as_json, **verification)
        return
    prepared = prepare(kind, run.load_spec(), run.target(cluster, poll_seconds), seed=seed)
    made = prepared.plan
    prices = options.load_prices(made.spec.execution.prices)
    with Progress(quiet=as_json) as view:
        placed = prepared.start()
        view.line(_headline(made))
        with notifier_of_spec(made.run_id, made.spec, view.warn) as notifier:
            sequence = Sequence(
                placed,
                notifier.watch(sequence_callbacks(view)),
                **verification,
            )
            results = sequence.run(retry_failed=True, stop_on_interrupt=True)
    options.print_run(made.artifacts, made.run_id, results, as_json=as_json, prices=prices)


def plan(
    run: RunOptions,
    compile_step: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the training step for the accelerator, without having one, and refuse a"
            " run that does not fit. Takes minutes; the result is kept under the artifacts.",
        ),
    ] = False,
    compile_timeout: Annotated[
        float, typer.Option(min=1, max=MOST_SECONDS, help="Seconds that --compile may take.")
    ] = 3600,
    price_per_chip_hour: Annotated[
        float | None,
        typer.Option(min=0, max=MOST, help="Price of one chip for an hour, to show costs."),
    ] = None,
    prices: Prices = None,
    as_json: Json = False,
) -> None:
    """Show which stages would run, on which machines, and the memory of a training step."""
    from tuneloop.cli.shared import display
    from tuneloop.history.cost import account
    from tuneloop.runs.backend import load_backend
    from tuneloop.runs.cost.bounds import bound_lines, bounds
    from tuneloop.runs.cost.kept_steps import kept_steps_of
    from tuneloop.runs.planning.plan import Plan
    from tuneloop.runs.planning.plan_table import plan_rows
    from tuneloop.runs.planning.prepare import prepare
    from tuneloop.runs.planning.train_step import check_fits, find_step, report_step

    if (rounds := run.load_rounds()) is not None:
        from tuneloop.cli.control.rounds import plan_of, print_rounds_plan

        of_rounds = rounds.spec.execution.cluster
        backend = "kubernetes" if run.image or (of_rounds and of_rounds.image) else "local"
        print_rounds_plan(plan_of(run, rounds, load_backend(backend)), as_json=as_json)
        return
    sweep = run.load_sweep()
    spec = run.with_options(sweep.members[0][1]) if sweep else run.load_spec()
    cluster = spec.execution.cluster
    backend = "kubernetes" if run.image or (cluster and cluster.image) else "local"
    if sweep is not None:
        from tuneloop.cli.control import sweeps

        made_sweep = sweeps.plan_members(run, sweep, load_backend(backend))
        sweeps.print_sweep_plan(made_sweep, as_json=as_json)
        return
    prepared = prepare(load_backend(backend), spec, run.target(), seed=run.seed)
    if compile_step and not isinstance(prepared.plan, Plan):
        raise UsageError(
            "--compile: found a run without training, expected one with a training step; remove it"
        )
    made, rows = prepared.plan, plan_rows(prepared.plan, prepared.backend)
    step = find_step(made, *_train_devices(cluster))
    timeout = compile_timeout if compile_step else None
    listed = options.load_prices(prices or spec.execution.prices)
    price = _train_price(price_per_chip_hour, listed, cluster)
    report = report_step(step, made.artifacts, timeout, price) if step else None
    at_most, kept = bounds(rows, cluster, listed), kept_steps_of(made)
    if as_json:
        bound = account.as_json(at_most, listed)
        cost = {} if kept is None else {"kept_checkpoints": kept.as_json()}
        print_json({**_plan_as_json(made, rows, report), "bound": bound, **cost})
    else:
        lines = [*bound_lines(at_most, listed), *([kept.line] if kept else [])]
        display.print_plan(made, rows, report, lines)
    for finding in _memory_findings(step, made.spec.execution):
        typer.echo(f"{finding.severity}: {finding}", err=True)
    if cluster is not None and (warning := _eval_warning(made, cluster)):
        typer.echo(f"warning: {warning}", err=True)
    if step is not None and report is not None:
        check_fits(step, report)


def _train_price(
    given: float | None, prices: PriceList | None, cluster: ClusterSpec | None
) -> float | None:
    """Return the price of a chip-hour of the train stage; None if it is not known."""
    if given is not None or prices is None or cluster is None:
        return given
    place = cluster.placement("train")
    return prices.of(place.accelerator, spot=place.spot)


def _train_devices(
    cluster: ClusterSpec | None,
) -> tuple[TargetDevices | None, list[TargetDevices]]:
    """Return the devices of the train stage, and the shapes with more of its chips."""
    if cluster is None:
        return None, []
    from tuneloop.k8s.backend import larger_devices, train_devices

    return train_devices(cluster), larger_devices(cluster)


def _memory_findings(step: PlannedStep | None, execution: ExecutionSpec) -> list[Finding]:
    if execution.cluster is None or step is None:
        return []
    from tuneloop.k8s.checks.base_model import check_host_memory

    return check_host_memory(step.host.peak_bytes, execution)


def _eval_warning(made: AnyPlan, cluster: ClusterSpec) -> str | None:
    from tuneloop.k8s.backend import stage_devices
    from tuneloop.runs.cost.eval_batch import warn_of_batch

    return warn_of_batch(made, stage_devices(cluster, "eval"))


def _plan_as_json(made: AnyPlan, rows: list[PlanRow], report: StepReport | None) -> dict[str, Any]:
    stages = [row.as_json() for row in rows]
    if report is not None:
        train = next(row for row in stages if row["name"] == "train")
        train["compile" if report.compiled else "estimate"] = report.as_json()
    return {
        "run_id": made.run_id,
        "seed": made.seed,
        "model": None if made.model is None else made.model.model_dump(mode="json"),
        "stages": stages,
    }
