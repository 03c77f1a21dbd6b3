"""Verbs of the trace store and datasets."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.cli.datasets.build import datasets_build
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    artifacts_option,
    given_file,
    load_prices,
    setting,
)
from tuneloop.cli.shared.terminal import write_data
from tuneloop.errors import SpecError, UsageError
from tuneloop.traces.exporters.table import EXPORTERS

if TYPE_CHECKING:
    from tuneloop.store.middleware.auth import Token

datasets_app = typer.Typer(help="Build, list, show and export datasets.", no_args_is_help=True)
tokens_app = typer.Typer(help="Create tokens of the trace store.", no_args_is_help=True)

StorePrices = Annotated[
    str | None,
    typer.Option(
        callback=given_file,
        help="YAML file with prices of accelerators, for the costs on pages of runs; default: the"
        " one that the variable TUNELOOP_PRICES names.",
    ),
]
TrustedProxies = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address or network of a proxy that tells the addresses of its clients in"
        " X-Forwarded-For; repeatable. From other addresses, the header is ignored.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(serve)
    app.add_typer(datasets_app, name="datasets")
    app.add_typer(tokens_app, name="tokens")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    database: Annotated[
        str,
        typer.Option(
            envvar="TUNELOOP_DATABASE",
            callback=setting,
            help="sqlite:///FILE or postgresql://USER@HOST/NAME; put a password in the variable,"
            " in PGPASSWORD or in ~/.pgpass.",
        ),
    ] = "sqlite:///.tuneloop/store.db",
    artifacts: Annotated[
        str, artifacts_option("Artifacts URL where datasets are written.")
    ] = DEFAULT_ARTIFACTS,
    tokens: Annotated[
        str | None,
        typer.Option(
            callback=given_file, help="Token file; default: the content of TUNELOOP_TOKENS."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Allow web pages of this origin, such as https://example.org; repeatable."
            " * allows every origin and needs tokens.",
        ),
    ] = None,
    prices: StorePrices = None,
    access_log: Annotated[
        bool, typer.Option(help="Log one JSON line per request to stderr.")
    ] = True,
    trusted_proxy: TrustedProxies = None,
) -> None:
    """Serve the trace store over HTTP. Without tokens, only on loopback."""
    from tuneloop.runs import store_app
    from tuneloop.storage import paths

    artifacts = paths.normal(artifacts)

    def listening(url: str, database: str) -> None:
        typer.echo(
            f"{url}: database {database}, artifacts {artifacts}; press Ctrl-C to stop", err=True
        )

    # uvicorn finishes open requests, then raises the signal again, which is no error here.
    try:
        with contextlib.suppress(KeyboardInterrupt):
            store_app.serve(
                host,
                port,
                database,
                artifacts,
                _tokens(tokens),
                listening,
                cors_origins=cors_origin or (),
                access_log=access_log,
                trusted_proxies=trusted_proxy or (),
                prices=load_prices(prices),
            )
    except SpecError as e:
        # In a container, exit with the code of a stage: 78 means that a retry does not help.
        typer.echo(f"tuneloop: {e}", err=True)
        raise typer.Exit(e.exit_code) from e


def _tokens(path: str | None) -> tuple[Token, ...]:
    from tuneloop.store.middleware.auth import parse_tokens

    if path is None:
        from tuneloop.settings.environment import read_settings, variable

        name, found = variable("tokens"), read_settings().tokens
        if name not in os.environ:
            return ()
        # An empty variable is refused: without tokens, the store would be open.
        return parse_tokens(found.get_secret_value() if found else "", name)
    from tuneloop.storage import files

    try:
        return parse_tokens(files.read(path).decode("utf-8"), path)
    except UnicodeDecodeError:  # without the cause, which holds the content
        raise UsageError(
            f"--tokens {path}: is not text in UTF-8, expected a token file; check the path"
        ) from None
    except OSError as e:
        raise UsageError(f"--tokens {path}: cannot be read ({e}); check the path") from e


@tokens_app.command("new")
def tokens_new(
    name: Annotated[str, typer.Argument(help="Name of the token's owner.")],
    role: Annotated[Literal["read", "write", "admin"], typer.Option(help="Rights of the token.")],
) -> None:
    """Create a token. Print it to stdout, and its line for the token file to stderr."""
    from tuneloop.store.middleware.auth import new_token

    token, line = new_token(name, role)
    typer.echo(token)
    typer.echo(f"add to the token file: {line}", err=True)


datasets_app.command("build")(datasets_build)


@datasets_app.command("list")
def datasets_list(
    artifacts: Annotated[str, artifacts_option("Artifacts URL.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Print the published datasets as NDJSON: key, build, traces, time."""
    from tuneloop.datasets.read import list_manifest_keys, load_manifest
    from tuneloop.jsonl import dump_line

    for key in list_manifest_keys(artifacts):
        manifest = load_manifest(artifacts, key)
        shown = manifest.model_dump(
            include={"dataset_key", "build_id", "trace_count", "created_at"}
        )
        write_data(dump_line(shown))


@datasets_app.command("show")
def datasets_show(
    key: Annotated[str, typer.Argument(help="Dataset key.")],
    croissant: Annotated[
        bool,
        typer.Option(
            "--croissant", help="Print the description in Croissant (JSON-LD) for other tools."
        ),
    ] = False,
    artifacts: Annotated[str, artifacts_option("Artifacts URL.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Print the manifest of a dataset as JSON."""
    from tuneloop.datasets.read import load_manifest

    manifest = load_manifest(artifacts, key)
    if croissant:
        from tuneloop.datasets.croissant import dump_croissant

        write_data(dump_croissant(manifest))
    else:
        typer.echo(manifest.model_dump_json(indent=1))


@datasets_app.command("export")
def datasets_export(
    key: Annotated[str, typer.Argument(help="Dataset key.")],
    export_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Output format: trace, tunix_sft or training_example of the store's API, or a"
            f" format of other tools: {', '.join(name for name in EXPORTERS if name != 'trace')}.",
        ),
    ] = "training_example",
    artifacts: Annotated[str, artifacts_option("Artifacts URL.")] = DEFAULT_ARTIFACTS,
) -> None:
    """Print a dataset as NDJSON."""
    from tuneloop.datasets.read import iter_rows, load_manifest
    from tuneloop.datasets.schema import trace_of_row
    from tuneloop.jsonl import encode_line
    from tuneloop.traces.exporters.lines import Lines
    from tuneloop.training.export.formats import EXPORT_FORMATS

    if export_format not in {**EXPORT_FORMATS, **EXPORTERS}:
        known = ", ".join(sorted({**EXPORT_FORMATS, **EXPORTERS}))
        raise UsageError(f"--format {export_format}: unknown, expected one of {known}")
    manifest = load_manifest(artifacts, key)
    if export_format in EXPORT_FORMATS:
        for _, row in iter_rows(manifest, artifacts):
            write_data(encode_line(EXPORT_FORMATS[export_format](row, manifest)))
        return
    lines = Lines(export_format)
    for _, row in iter_rows(manifest, artifacts):
        write_data(lines.line(trace_of_row(row)))
    for loss in lines.losses():
        typer.echo(loss, err=True)
