"""The human verbs: parsing and printing, nothing else.

Results go to stdout (`--json` for programs), everything else to stderr. Expected failures are one
sentence and an exit code; libraries are imported by the verb that needs them, so that `--help`
answers at once.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tuneloop.errors import VERB_EXIT_CODES, DataError, StageFailed, TuneloopError, UsageError

CANCELLED = 30
TYPER_INTERRUPTED = 130
"""What typer makes of a KeyboardInterrupt."""

app = typer.Typer(
    name="tuneloop",
    help="Reasoning traces to a tuned model and its evaluation, as plain batch jobs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
traces_app = typer.Typer(help="Traces in the store.", no_args_is_help=True)
datasets_app = typer.Typer(help="Datasets: frozen selections of traces.", no_args_is_help=True)
eval_sets_app = typer.Typer(help="Eval sets.", no_args_is_help=True)
app.add_typer(traces_app, name="traces")
app.add_typer(datasets_app, name="datasets")
app.add_typer(eval_sets_app, name="eval-sets")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
StoreUrl = Annotated[str, typer.Option("--store", help="URL of the trace store.")]
SpecFile = Annotated[str, typer.Argument(metavar="RUN.yaml", help="The run spec.")]
DatasetKey = Annotated[str | None, typer.Option(help="Dataset key, instead of the spec's.")]
ArtifactsUrl = Annotated[str | None, typer.Option(help="Artifacts URL, instead of the spec's.")]
RunStoreUrl = Annotated[str | None, typer.Option(help="Store URL, instead of the spec's.")]
RunSeed = Annotated[int | None, typer.Option(min=0, help="Seed, instead of the spec's.")]
DEFAULT_STORE = "http://127.0.0.1:8000"
DEFAULT_ARTIFACTS = ".tuneloop/artifacts"


def main() -> NoReturn:
    """Run a verb and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except TuneloopError as e:
        typer.echo(f"tuneloop: {e}", err=True)
        sys.exit(_verb_code(e))
    except SystemExit as e:
        if e.code != TYPER_INTERRUPTED:
            raise
        typer.echo("stopped; run again to continue", err=True)
        sys.exit(CANCELLED)
    sys.exit(0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _verb_code(error: TuneloopError) -> int:
    if isinstance(error, StageFailed | UsageError):
        return error.exit_code
    return VERB_EXIT_CODES.get(error.exit_code, error.exit_code)


@app.command()
def demo(
    workdir: Annotated[
        Path, typer.Option(help="Gets store.db and artifacts/; run again to continue.")
    ] = Path(".tuneloop/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole loop on this machine: traces, dataset, export, train, eval, import."""
    from tuneloop import display
    from tuneloop.demo.loop import run_demo

    view = display.Progress(quiet=as_json)
    with view:
        result = run_demo(
            workdir,
            Path.cwd(),
            stored=lambda count, key: view.line(f"store    {count} traces, dataset {key}"),
            planned=lambda plan: view.line(f"run      {plan.run_id}"),
            started=view.started,
            progress=view.progress,
            finished=view.finished,
        )
    _print_run(result.plan, result.stages, as_json=as_json)


@app.command()
def run(
    spec: SpecFile,
    dataset: Annotated[str | None, typer.Option(help="Dataset key, instead of the spec's.")] = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
    new_seed: Annotated[
        bool, typer.Option("--new-seed", help="Draw a seed: another run of the same spec.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a spec on this machine, stage after stage; run again to continue."""
    from tuneloop import display
    from tuneloop.runs.local import run_plan

    plan = _load_plan(spec, dataset, artifacts, store, _seed(seed, new_seed))
    view = display.Progress(quiet=as_json)
    with view:
        view.line(f"run      {plan.run_id}")
        results = run_plan(
            plan,
            Path.cwd(),
            started=view.started,
            progress=view.progress,
            finished=view.finished,
        )
    _print_run(plan, results, as_json=as_json)


@app.command()
def plan(
    spec: SpecFile,
    dataset: Annotated[str | None, typer.Option(help="Dataset key, instead of the spec's.")] = None,
    artifacts: ArtifactsUrl = None,
    seed: RunSeed = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: stages, fingerprints, what is cached. Writes nothing."""
    from tuneloop import display
    from tuneloop.runs.plan import stage_state

    made = _load_plan(spec, dataset, artifacts, None, seed)
    rows = [(s.stage, s.fingerprint, stage_state(s)) for s in made.stages]
    if as_json:
        stages = [{"name": n, "fingerprint": f, "state": state} for n, f, state in rows]
        _print_json({"run_id": made.run_id, "seed": made.seed, "stages": stages})
        return
    display.print_plan(made.run_id, made.seed, rows)


@app.command()
def render(
    spec: SpecFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    image: Annotated[
        str | None, typer.Option(help="REPOSITORY@sha256:DIGEST, instead of the spec's.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset key, instead of the spec's.")] = None,
    artifacts: ArtifactsUrl = None,
    store: RunStoreUrl = None,
    seed: RunSeed = None,
) -> None:
    """Write a run as plain YAML that `kubectl apply -f DIR` takes as it is."""
    from tuneloop import provenance, storage
    from tuneloop.k8s.render import require_digest
    from tuneloop.runs.rendering import image_of, load_manifests, render_run

    checkout = Path.cwd()
    placed = _placed_spec(spec, dataset, artifacts, store)
    reference = image_of(placed, image)
    plan = _plan_of(placed, seed, image_digest=require_digest(reference))
    templates, accelerators = load_manifests(str(checkout / "manifests" / "k8s"))
    files = render_run(
        plan,
        image=reference,
        git_commit=provenance.gather(checkout)["git_commit"],
        templates=templates,
        accelerators=accelerators,
    )
    for name, text in files.items():
        storage.write(str(output / name), text.encode())
    typer.echo(f"{output}: {len(files)} files of run {plan.run_id}")


def _load_plan(
    url: str, dataset: str | None, artifacts: str | None, store: str | None, seed: int | None
) -> Any:
    return _plan_of(_placed_spec(url, dataset, artifacts, store), seed)


def _plan_of(spec: Any, seed: int | None, image_digest: str | None = None) -> Any:
    from tuneloop.runs.plan import load_plan

    return load_plan(spec, Path.cwd(), seed=seed, image_digest=image_digest)


def _placed_spec(url: str, dataset: str | None, artifacts: str | None, store: str | None) -> Any:
    from tuneloop.runs.spec_file import load_run_spec

    spec = load_run_spec(url)
    changes = {"artifacts": artifacts, "store_url": store}
    execution = spec.execution.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    return spec.model_copy(update={"execution": execution, "dataset": dataset or spec.dataset})


def _seed(seed: int | None, new_seed: bool) -> int | None:
    if not new_seed:
        return seed
    if seed is not None:
        raise UsageError("--seed and --new-seed: found both, expected at most one; drop one")
    import secrets

    drawn = secrets.randbelow(2**32)
    typer.echo(f"seed     {drawn} (pass --seed {drawn} to continue this run)", err=True)
    return drawn


def _print_run(plan_: Any, stages: list[Any], *, as_json: bool) -> None:
    from tuneloop import display

    summary = display.run_summary(plan_, stages)
    if as_json:
        _print_json(summary)
    else:
        display.print_run(summary, stages)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    database: Annotated[
        str, typer.Option(help="SQLAlchemy URL of the database.")
    ] = "sqlite:///.tuneloop/store.db",
    artifacts: Annotated[str, typer.Option(help="Where datasets are written.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Serve the trace store over HTTP."""
    from tuneloop import service

    def listening(url: str) -> None:
        typer.echo(f"{url}: database {database}, artifacts {artifacts}; Ctrl-C stops it", err=True)

    # uvicorn finishes what is in flight, then raises the signal again: asked to stop, it stopped.
    with contextlib.suppress(KeyboardInterrupt):
        service.serve(host, port, database, artifacts, listening)


@traces_app.command("import")
def traces_import(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="ReasoningTraces, one a line.")],
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Put traces into the store; a file that is already there adds nothing."""
    from tuneloop import display
    from tuneloop.traces.client import TraceClient
    from tuneloop.traces.files import import_file

    with TraceClient(store) as client, display.Progress(quiet=as_json) as view:
        count = import_file(file, client, lambda done, total: view.bar("import", done, total))
    if as_json:
        _print_json({"traces": count})
    else:
        typer.echo(f"{count} traces of {file} are in the store")


@datasets_app.command("build")
def datasets_build(
    name: Annotated[str, typer.Argument(help="Dataset name.")],
    version: Annotated[str, typer.Argument(help="Dataset version, such as v1.")],
    recipe: Annotated[str, typer.Option(help="How traces become examples.")] = "trace_sft_v1",
    instruction: Annotated[
        str | None, typer.Option(help="Put behind every prompt, in training and evaluation.")
    ] = None,
    filters: Annotated[
        str, typer.Option("--filter", help="JSON object that a trace's meta has to match.")
    ] = "{}",
    limit: Annotated[int, typer.Option(min=1, help="Traces at most.")] = 1_000_000,
    strategy: Annotated[str, typer.Option(help="latest or random.")] = "latest",
    seed: Annotated[int | None, typer.Option(help="Drawn and kept if not given.")] = None,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Freeze a selection of traces under NAME-VERSION."""
    from tuneloop.traces.client import TraceClient

    try:
        wanted = json.loads(filters)
    except ValueError as e:
        raise UsageError(f"--filter {filters}: not JSON ({e}); quote it for the shell") from e
    request = {
        "dataset_name": name,
        "dataset_version": version,
        "recipe": recipe,
        "instruction": instruction,
        "filters": wanted,
        "limit": limit,
        "selection_strategy": strategy,
        "seed": seed,
    }
    with TraceClient(store) as client:
        built = client.build_dataset(request)
    if as_json:
        _print_json(built)
    else:
        typer.echo(f"{built['dataset_key']}: {built['trace_count']} traces")


@datasets_app.command("show")
def datasets_show(
    key: Annotated[str, typer.Argument(help="Dataset key.")],
    artifacts: Annotated[str, typer.Option(help="Where it was written.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Print a dataset's manifest as JSON."""
    from tuneloop.datasets.read import load_manifest

    typer.echo(load_manifest(artifacts, key).model_dump_json(indent=1))


@datasets_app.command("export")
def datasets_export(
    key: Annotated[str, typer.Argument(help="Dataset key.")],
    export_format: Annotated[
        str, typer.Option("--format", help="trace, tunix_sft or training_example.")
    ] = "training_example",
    artifacts: Annotated[str, typer.Option(help="Where it was written.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Print a dataset as NDJSON."""
    from tuneloop.datasets.read import iter_rows, load_manifest
    from tuneloop.jsonl import dump_line
    from tuneloop.training.examples import EXPORT_FORMATS

    if export_format not in EXPORT_FORMATS:
        known = ", ".join(sorted(EXPORT_FORMATS))
        raise UsageError(f"--format {export_format}: unknown, expected one of {known}")
    manifest = load_manifest(artifacts, key)
    for _, row in iter_rows(manifest, artifacts):
        sys.stdout.buffer.write(dump_line(EXPORT_FORMATS[export_format](row, manifest)))


@eval_sets_app.command("check")
def eval_sets_check(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="The eval set.")],
) -> None:
    """Validate an eval set; every problem with its line."""
    from tuneloop import storage
    from tuneloop.evaluation.sets import parse_eval_set, problems

    try:
        data = storage.read(file)
    except FileNotFoundError as e:
        raise UsageError(f"{file}: no such file, expected an eval set; check the path") from e
    found = problems(data, file)
    for problem in found:
        typer.echo(problem, err=True)
    if found:
        raise DataError(f"{file}: {len(found)} problems, expected none; mend the lines above")
    items = parse_eval_set(data, file)
    categories = len({item.category for item in items})
    typer.echo(f"{file}: {len(items)} items in {categories} categories, no problems")


if __name__ == "__main__":
    main()
