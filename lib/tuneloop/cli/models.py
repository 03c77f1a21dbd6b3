"""Verbs of models: add, list, show, verify, check, export."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuneloop.cli.gates import aliases
from tuneloop.cli.shared.option_groups import KnownModel, OneRun, expand_groups
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    Json,
    artifacts_option,
    given_file,
    print_json,
)
from tuneloop.errors import DataError

if TYPE_CHECKING:
    from tuneloop.artifacts.model_manifest import ModelManifest
    from tuneloop.models.stored import ListedModel

models_app = typer.Typer(
    help="Add, list, verify and export models: checkpoints in Hugging Face layout.",
    no_args_is_help=True,
)

MB = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    models_app.command("add")(add)
    models_app.command("list")(list_)
    for verb in (show, verify, check, export):
        models_app.command()(expand_groups(verb))
    app.add_typer(models_app, name="models")


def add(
    name: Annotated[
        str,
        typer.Argument(help="New name: lower-case letters, digits, dashes and dots."),
    ],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Folder in Hugging Face layout (a path or any fsspec URL), a hub id such as"
            " ORGANIZATION/NAME or hf://ORGANIZATION/NAME@REVISION, or a GGUF file.",
        ),
    ],
    artifacts: Annotated[
        str, artifacts_option("Artifacts URL that receives the model.")
    ] = DEFAULT_ARTIFACTS,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Do not copy the files; the manifest states their place."),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Licence to state; default: what the files state."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Dtype of the weights that are read from a GGUF file."),
    ] = "float32",
    as_json: Json = False,
) -> None:
    """Store a checkpoint as a model. Its files and tensors are checked first."""
    from tuneloop.artifacts.model_manifest import model_prefix
    from tuneloop.cli.live.progress import Progress
    from tuneloop.models.add import Request, add_model
    from tuneloop.storage import paths

    request = Request(name, url, paths.absolute(artifacts), in_place, licence, dtype)
    with Progress(quiet=as_json) as view:
        manifest = add_model(
            request, lambda done, total: view.bar("MB", done // MB, max(1, total // MB))
        )
    if as_json:
        print_json(_as_json(manifest))
        return
    _print_facts(manifest, model_prefix(request.artifacts, name))
    if manifest.tokenizer_sha256 is None:
        typer.echo("warning: the model has no tokenizer, so it cannot be trained", err=True)


def list_(
    artifacts: Annotated[
        str, artifacts_option("Artifacts URL that holds the models.")
    ] = DEFAULT_ARTIFACTS,
    as_json: Json = False,
) -> None:
    """List the stored models, and the aliases with their models. Exit 12 if an alias is broken."""
    from tuneloop.artifacts.aliases import list_aliases
    from tuneloop.models.stored import list_models
    from tuneloop.storage import paths

    url = paths.absolute(artifacts)
    listed, (named, problems) = list_models(url), list_aliases(url)
    if as_json:
        models = [_listed_as_json(each) for each in listed]
        shown = [aliases.as_json(each) for each in named]
        print_json({"models": models, "aliases": shown, "problems": problems})
    else:
        if listed or not (named or problems):
            _print_list(listed)
        aliases.print_aliases(named, is_first=not listed)
    if problems:
        for problem in problems[1:]:
            typer.echo(f"error: {problem}", err=True)
        raise DataError(problems[0])


def show(model: KnownModel, as_json: Json = False) -> None:
    """Show the manifest of a model. For an alias, show its history too."""
    from tuneloop.artifacts.aliases import read_history

    named = model.find_named()
    found = named.model
    history = read_history(model.artifacts_url, named.change.alias) if named.change else []
    if as_json:
        value = {**_as_json(found.manifest), "folder": found.folder}
        if history:
            value |= {"alias": model.name, "history": [aliases.as_json(each) for each in history]}
        print_json(value)
    else:
        _print_facts(found.manifest, found.folder)
        aliases.print_history(history)


def verify(model: KnownModel, as_json: Json = False) -> None:
    """Read all files of a model and compare them with its manifest. Exit 12 if one differs."""
    from tuneloop.cli.live.progress import Progress
    from tuneloop.models.stored import verify_files

    named = model.find_named()
    found = named.model
    with Progress(quiet=as_json) as view:
        problems = list(
            verify_files(
                found.manifest,
                found.folder,
                lambda done, total: view.bar("MB", done // MB, max(1, total // MB)),
            )
        )
    count = len(found.manifest.files)
    if as_json:
        print_json({"name": model.name, "files": count, "problems": problems})
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        fix = {
            "run": f"restore the files, or delete the train record of run {named.name} and run it"
            " again",
            "stored": f"delete {found.folder} and add the model again",
        }
        raise DataError(f"{model.name}: {len(problems)} problems, expected none; {fix[named.kind]}")
    if not as_json:
        typer.echo(f"{model.name}: {count} files are as recorded")


def check(
    model: KnownModel,
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            callback=given_file,
            metavar="REF.npz",
            help="Output of another program on this model: ids, logits and greedy tokens (gen).",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Compare logits and greedy tokens with a reference. Exit 12 if they differ."""
    from tuneloop.models.weights import check_against

    found = model.find()
    result = check_against(found.manifest, found.folder, reference)
    words = (
        f"largest difference of logits {result.max_difference:.2g} (standard deviation"
        f" {result.logits_std:.2g}), {result.greedy_equal} of {result.greedy_tokens} greedy tokens"
        " equal"
    )
    if as_json:
        print_json({"name": model.name, "passed": result.passed, **asdict(result)})
    else:
        typer.echo(f"{model.name}: {words}")
    if not result.passed:
        raise DataError(
            f"{model.name}: {words}; expected the same function as in {reference}: check that the"
            " reference is of this model, in float32"
        )


def export(
    run: OneRun,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Folder that receives the files (a path or any fsspec URL), or"
            " hf://ORGANIZATION/NAME.",
        ),
    ],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Export the PEFT adapter, not the whole model.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that have other content.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export the tuned model of a run, or of the run that an alias names, for other tools."""
    from tuneloop.cli.live.progress import Progress
    from tuneloop.models.hand_on import export_model

    run_id = aliases.run_of(run.run_id, run.artifacts_url)
    with Progress(quiet=as_json) as view:
        exported = export_model(
            run_id,
            target,
            run.artifacts_url,
            adapter=adapter,
            overwrite=overwrite,
            progress=lambda done, total: view.bar("MB", done // MB, max(1, total // MB)),
        )
    size = sum(file.size_bytes for file in exported.files)
    if as_json:
        names = [file.name for file in exported.files]
        print_json(
            {
                "run_id": run_id,
                "target": exported.place,
                "files": names,
                "size_bytes": size,
                "has_evaluation": exported.has_evaluation,
            }
        )
        return
    typer.echo(f"{exported.place}: {len(exported.files)} files, {_megabytes(size)}")
    if not exported.has_evaluation:
        typer.echo("warning: the run has no finished evaluation; the model card says so", err=True)


def _as_json(manifest: ModelManifest) -> dict[str, Any]:
    return {**manifest.model_dump(mode="json"), "digest": manifest.digest}


def _listed_as_json(listed: ListedModel) -> dict[str, Any]:
    manifest = listed.manifest
    if manifest is None:
        return {"name": listed.name, "problem": listed.problem}
    return {
        "name": listed.name,
        "family": manifest.architecture.family,
        "parameters": manifest.parameters,
        "dtype": manifest.dtype,
        "size_bytes": _size(manifest),
        "licence": manifest.licence,
        "source": manifest.source,
        "digest": manifest.digest,
    }


def _size(manifest: ModelManifest) -> int:
    return sum(file.size_bytes for file in manifest.files)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / MB:,.1f} MB"


def _print_list(listed: list[ListedModel]) -> None:
    from rich.table import Table
    from rich.text import Text

    from tuneloop.cli.live.console import make_console

    table = Table(box=None, pad_edge=False)
    for column in ("model", "family"):
        table.add_column(column, overflow="fold")
    for column in ("parameters", "size"):
        table.add_column(column, justify="right")
    for column in ("dtype", "licence"):
        table.add_column(column, overflow="fold")
    for each in listed:
        manifest = each.manifest
        if manifest is None:
            continue
        table.add_row(
            *(Text(each.name), manifest.architecture.family, f"{manifest.parameters:,}"),
            *(_megabytes(_size(manifest)), manifest.dtype, Text(manifest.licence or "not stated")),
        )
    if table.row_count:
        make_console().print(table)
    else:
        typer.echo("no models; add one with `tuneloop models add NAME URL`", err=True)
    for each in listed:
        if each.manifest is None:
            typer.echo(f"warning: {each.name}: {each.problem}", err=True)


def _print_facts(manifest: ModelManifest, folder: str | None = None) -> None:
    shape = manifest.architecture
    facts = {
        "model": manifest.name,
        "family": f"{shape.family}, {shape.num_layers} layers, width {shape.embed_dim},"
        f" vocabulary {shape.vocab_size:,}",
        "parameters": f"{manifest.parameters:,}",
        "dtype": manifest.dtype,
        "size": f"{_megabytes(_size(manifest))} in {len(manifest.files)} files",
        "licence": manifest.licence or "not stated",
        "source": manifest.source,
        "base": manifest.base,
        "weights": "tuned from random weights" if manifest.random_weights else None,
        "tokenizer": _short(manifest.tokenizer_sha256),
        "template": _short(manifest.chat_template_sha256),
        "files": manifest.place or folder,
        "digest": manifest.digest,
    }
    for title, text in facts.items():
        if text is not None:
            typer.echo(f"{title:11}{text}")


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:16]}" if digest else "none"
