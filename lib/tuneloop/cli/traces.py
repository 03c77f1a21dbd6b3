"""Verbs of traces: import, generate, list and export."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.cli import judgements
from tuneloop.cli.shared.options import (
    DEFAULT_STORE,
    MOST,
    STDOUT,
    GymCount,
    GymSeed,
    GymTask,
    Json,
    StoreUrl,
    given_file,
    print_json,
)
from tuneloop.cli.shared.terminal import write_data
from tuneloop.errors import UsageError
from tuneloop.storage.rows.table import FILE_TYPES
from tuneloop.traces.exporters.table import EXPORTERS
from tuneloop.traces.importers.table import IMPORTERS

if TYPE_CHECKING:
    from tuneloop.traces.files import Imported

traces_app = typer.Typer(help="Import, list, label, score and export traces.", no_args_is_help=True)
_REFUSED = ".refused.jsonl"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    judgements.register(traces_app)
    app.add_typer(traces_app, name="traces")


def _listed(rows: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {row.description}" for name, row in rows.items())


@traces_app.command("import")
def traces_import(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            callback=given_file,
            help="File, URL, or folder of datasets; may be gzip or zstd. - reads standard input.",
        ),
    ],
    source_format: Annotated[
        str, typer.Option("--format", help=f"Format of a record. {_listed(IMPORTERS)}.")
    ] = "trace",
    file_type: Annotated[
        str | None,
        typer.Option(
            help=f"Type of the file; default: by the suffix, or json. {_listed(dict(FILE_TYPES))}."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            "--column",
            metavar="KEY=COLUMN",
            help="Keys of the format and the columns that hold them, such as"
            " prompt=question,completion=answer; repeatable.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Do not read a column or key; repeatable."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a folder; needed if there are several.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Subset of a folder; needed if there are several.")
    ] = None,
    skip_invalid: Annotated[
        bool,
        typer.Option(
            "--skip-invalid",
            help="Import the valid records, and write the others with the reasons to --refused."
            " Default: one invalid record refuses the whole file.",
        ),
    ] = False,
    refused: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="File for records that --skip-invalid skips; default: NAME.refused.jsonl in the"
            " current folder.",
        ),
    ] = None,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Import traces into the store. Importing a file again adds nothing."""
    from tuneloop.cli.live.progress import Progress
    from tuneloop.storage.rows.columns import parse_columns
    from tuneloop.storage.rows.source import Source
    from tuneloop.traces.client import TraceClient
    from tuneloop.traces.files import ImportOptions, import_file

    for option, value, known in (
        ("--format", source_format, IMPORTERS),
        ("--file-type", file_type, FILE_TYPES),
    ):
        if value is not None and value not in known:
            names = ", ".join(sorted(known))
            raise UsageError(f"{option} {value}: unknown, expected one of {names}")
    if refused is not None and not skip_invalid:
        raise UsageError("--refused: is of use only with --skip-invalid; add it")
    if skip_invalid and refused is None:
        refused = f"{_name_of(file)}{_REFUSED}"
    dropped = tuple(drop or ())
    source = Source(file, file_type, split, subset, dropped)
    options = ImportOptions(source_format, parse_columns(columns or ()), dropped)
    with TraceClient(store) as client, Progress(quiet=as_json) as view:
        found = import_file(
            source, client, lambda done, total: view.bar("import", done, total), options, refused
        )
    _print_imported(file, found, refused, as_json=as_json)


def _name_of(file: str) -> str:
    return "stdin" if file == STDOUT else posixpath.basename(file.rstrip("/")) or "traces"


def _print_imported(file: str, found: Imported, refused: str | None, *, as_json: bool) -> None:
    if as_json:
        counts: dict[str, Any] = {"traces": found.traces}
        if refused is not None:
            counts |= {"refused": found.refused, "refused_file": refused if found.refused else None}
        print_json(counts | ({"skipped": found.skipped} if found.skipped else {}))
        return
    typer.echo(f"{found.traces} traces of {file} are in the store")
    if found.refused:
        typer.echo(f"{found.refused} records were refused; {refused} has them with the reasons")
    if found.skipped:
        typer.echo(f"{found.skipped} records are no traces by the rules of the format")


@traces_app.command("generate")
def traces_generate(
    task: GymTask,
    count: GymCount = 100,
    seed: GymSeed = 0,
) -> None:
    """Print traces of a reasoning-gym task as NDJSON for `traces import`."""
    from tuneloop.jsonl import dump_line
    from tuneloop.traces.gym import draw_problems, problem_to_trace

    for problem in draw_problems(task, count, seed):
        write_data(dump_line(problem_to_trace(problem)))


@traces_app.command("list")
def traces_list(
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Maximum number of traces.")] = 20,
    source: Annotated[str | None, typer.Option(help="Only traces with this meta.source.")] = None,
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Print the newest traces as NDJSON: id, time, version."""
    from tuneloop.jsonl import dump_line
    from tuneloop.traces.client import TraceClient

    with TraceClient(store) as client:
        for listed in client.iter_traces(limit=limit, source=source):
            write_data(dump_line(listed))


@traces_app.command("export")
def traces_export(
    source: Annotated[str | None, typer.Option(help="Only traces with this meta.source.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Maximum number of traces; default: all.")
    ] = None,
    export_format: Annotated[
        str, typer.Option("--format", help=f"Format of a line. {_listed(dict(EXPORTERS))}.")
    ] = "trace",
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Print traces as NDJSON for `traces import` or another tool, newest first."""
    from tuneloop.traces.client import TraceClient
    from tuneloop.traces.export_client import iter_exported
    from tuneloop.traces.exporters.lines import Lines

    if export_format not in EXPORTERS:
        known = ", ".join(sorted(EXPORTERS))
        raise UsageError(f"--format {export_format}: unknown, expected one of {known}")
    lines = Lines(export_format)
    with TraceClient(store) as client:
        for found in iter_exported(client, limit=limit, source=source):
            write_data(lines.line(found["payload"]))
    for loss in lines.losses():
        typer.echo(loss, err=True)
