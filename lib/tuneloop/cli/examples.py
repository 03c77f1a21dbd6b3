"""Verbs of training examples: inspect, stats, export."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuneloop.cli.shared.option_groups import expand_groups
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    MOST,
    STDOUT,
    Json,
    artifacts_option,
    given_file,
    print_json,
)
from tuneloop.cli.shared.terminal import write_data
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.training.export.inspect import Inspection
    from tuneloop.training.text.chat_format import ChatFormat

examples_app = typer.Typer(
    help="Inspect, measure and convert training examples.", no_args_is_help=True
)

ExamplesUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        callback=given_file,
        help="An examples-*.jsonl[.zst] file, or a prefix with such files.",
    ),
]


@dataclass(frozen=True)
class ChatOptions:
    """The model whose tokenizer and chat template are used."""

    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of a stored model, an alias, or run id."),
    ] = None
    artifacts: Annotated[str, artifacts_option("Artifacts URL that holds the model.")] = (
        DEFAULT_ARTIFACTS
    )
    thinking: Annotated[
        Literal["steps", "plain"], typer.Option("--thinking", help="As `train.thinking` of a run.")
    ] = "plain"
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            callback=given_file,
            help="Without a model: a tokenizer.model or tokenizer.json.",
        ),
    ] = None
    family: Annotated[
        str, typer.Option("--family", help="Without a tokenizer: family of the chat template.")
    ] = "gemma3"
    system_instruction: Annotated[
        str | None, typer.Option("--system-instruction", help="System instruction of the run.")
    ] = None

    def chat_format(self) -> ChatFormat | None:
        """Load the chat format; None if neither a model nor a tokenizer is given."""
        if self.model is not None and self.tokenizer is not None:
            raise UsageError(
                "--tokenizer: given together with --model, expected one of them; leave one out"
            )
        if self.model is not None:
            from tuneloop.runs.planning.base_model import find_model
            from tuneloop.storage import paths
            from tuneloop.training.text.stored_format import read_chat_format

            found = find_model(self.model, paths.absolute(self.artifacts))
            return read_chat_format(found.manifest, found.folder, thinking=self.thinking)
        if self.tokenizer is None:
            return None
        from tuneloop.storage import files
        from tuneloop.training.text.chat_format import load_chat_format
        from tuneloop.training.text.tokenizers import tokenizer_name

        try:
            data = files.read(self.tokenizer)
        except FileNotFoundError as e:
            raise UsageError(
                f"{self.tokenizer}: no such file, expected a tokenizer.model or tokenizer.json;"
                " check the path"
            ) from e
        return load_chat_format({tokenizer_name(data): data}, place=self.tokenizer)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (inspect, stats):
        examples_app.command()(expand_groups(verb))
    app.add_typer(examples_app, name="examples")


def inspect(
    url: ExamplesUrl,
    chat: ChatOptions,
    example_id: Annotated[
        str | None, typer.Option("--id", help="Id of the example or of its trace.")
    ] = None,
    row: Annotated[
        int, typer.Option(min=0, max=MOST, help="Line of the file, from 0, without --id.")
    ] = 0,
    html: Annotated[
        str | None,
        typer.Option(
            help="Also write an HTML page to this path; - writes only the page, to standard output."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one example as it is trained on. Tokens are coloured, and grouped by loss mask."""
    from tuneloop.storage import files
    from tuneloop.training.chat_templates import chat_template_named
    from tuneloop.training.export.files import is_examples_file, read_line
    from tuneloop.training.export.inspect import (
        find_example,
        inspect_example,
        inspect_text,
        iter_examples,
        render_html,
    )
    from tuneloop.training.schema import parse_example

    template, chat_format = chat_template_named(chat.family), chat.chat_format()
    if example_id is not None:
        _, example = find_example(url, example_id)
    elif is_examples_file(url):
        example = parse_example(read_line(url, row), f"{url}:{row + 1}")
    elif row:
        raise UsageError("--row: found a prefix, expected one file; give a file, or --id")
    else:
        _, example = next(iter_examples(url))
    if chat_format is None:
        found = inspect_text(example, template, chat.system_instruction)
    else:
        found = inspect_example(example, chat_format, chat.system_instruction)
    if html == STDOUT:
        typer.echo(render_html(found))
        return
    if html is not None:
        files.write(html, render_html(found).encode())
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)


def _as_json(found: Inspection) -> dict[str, Any]:
    return {
        "id": found.example.id,
        "text": found.text,
        "unit": "tokens" if found.has_tokens else "characters",
        "total": found.total,
        "trained": found.trained,
        "roles": found.roles,
        "expected_roles": found.expected_roles,
        "pieces": [[piece.text, piece.trained] for piece in found.pieces],
    }


def _print(found: Inspection) -> None:
    from itertools import groupby

    from rich.text import Text

    from tuneloop.cli.live.console import make_console

    console = make_console(soft_wrap=True)
    console.print(found.example.id, found.summary(), sep="\n", markup=False)
    # The parts have titles, because a pipe and NO_COLOR show no colours.
    for trained, pieces in groupby(found.pieces, key=lambda piece: piece.trained):
        text = Text()
        shades = ("on color(22)", "on color(28)") if trained else ("", "on color(236)")
        for number, piece in enumerate(pieces):
            text.append(piece.text, style=shades[number % 2])
        console.print(f"--- {'in the loss' if trained else 'not in the loss'}", markup=False)
        console.print(text)


def stats(
    url: ExamplesUrl,
    chat: ChatOptions,
    as_json: Json = False,
) -> None:
    """Count examples and measure their lengths."""
    from tuneloop.training.export.inspect import example_texts, iter_examples, token_counts
    from tuneloop.training.export.lengths import summarise

    measured: dict[str, Counter[int]] = {}
    count = 0
    chat_format = chat.chat_format()
    for _, example in iter_examples(url):
        count += 1
        lengths = {"prompt_characters": 0, "response_characters": 0}
        for text, trained in example_texts(example):
            lengths["response_characters" if trained else "prompt_characters"] += len(text)
        if chat_format is not None:
            lengths["prompt_tokens"], lengths["response_tokens"] = token_counts(
                example, chat_format, chat.system_instruction
            )
        for name, length in lengths.items():
            measured.setdefault(name, Counter())[length] += 1
    found = {name: summarise(sorted(counts.items())) for name, counts in measured.items()}
    if as_json:
        print_json({"examples": count, "lengths": found})
        return
    typer.echo(f"{count} examples")
    for name, lengths_ in found.items():
        quantiles = ", ".join(f"{key} {value}" for key, value in lengths_["quantiles"].items())
        typer.echo(f"{name.replace('_', ' ')}: {quantiles}, mean {lengths_['mean']:.1f}")


@examples_app.command("export")
def export(
    url: ExamplesUrl,
    view: Annotated[
        str, typer.Option("--format", help="Output format: messages or prompt_completion.")
    ] = "messages",
) -> None:
    """Print examples as NDJSON. Formats for Hugging Face datasets, TRL and Axolotl."""
    from tuneloop.jsonl import encode_line
    from tuneloop.training.export.formats import VIEWS
    from tuneloop.training.export.inspect import iter_examples

    if view not in VIEWS:
        raise UsageError(f"--format {view}: unknown, expected one of {', '.join(sorted(VIEWS))}")
    for _, example in iter_examples(url):
        write_data(encode_line(VIEWS[view](example)))
