"""Verbs of training examples: inspect, stats, export."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.cli.options import Json, print_json
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    import sentencepiece

    from tuneloop.training.chat_templates import ChatTemplate
    from tuneloop.training.export.inspect import Inspection

examples_app = typer.Typer(
    help="Inspect, measure and convert training examples.", no_args_is_help=True
)

ExamplesUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="An examples-*.jsonl[.zst] file, or a prefix with such files."
    ),
]
TokenizerUrl = Annotated[
    str | None, typer.Option(help="SentencePiece model, such as the train stage's tokenizer.model.")
]
Family = Annotated[str, typer.Option(help="Chat template: gemma2, gemma3 or gemma4.")]
System = Annotated[str | None, typer.Option(help="System instruction of the run.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(examples_app, name="examples")


@examples_app.command("inspect")
def inspect(
    url: ExamplesUrl,
    example_id: Annotated[
        str | None, typer.Option("--id", help="Id of the example or of its trace.")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Line of the file, from 0, without --id.")] = 0,
    tokenizer: TokenizerUrl = None,
    family: Family = "gemma3",
    system_instruction: System = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page to this path.")] = None,
    as_json: Json = False,
) -> None:
    """Show one example as it is trained on. Tokens are coloured by loss mask."""
    from tuneloop.storage import files
    from tuneloop.training.chat_templates import chat_template_named
    from tuneloop.training.export.files import is_examples_file, read_line
    from tuneloop.training.export.inspect import (
        find_example,
        inspect_example,
        iter_examples,
        render_html,
    )
    from tuneloop.training.schema import parse_example

    chat = chat_template_named(family)
    if example_id is not None:
        _, example = find_example(url, example_id)
    elif is_examples_file(url):
        example = parse_example(read_line(url, row), f"{url}:{row + 1}")
    elif row:
        raise UsageError("--row: found a prefix, expected one file; give a file, or --id")
    else:
        _, example = next(iter_examples(url))
    found = inspect_example(example, chat, system_instruction, _tokenizer(tokenizer, chat))
    if html is not None:
        files.write(str(html), render_html(found).encode())
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)


def _tokenizer(
    url: str | None, template: ChatTemplate
) -> sentencepiece.SentencePieceProcessor | None:
    if url is None:
        return None
    from tuneloop.storage import files
    from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer

    try:
        return load_tokenizer(files.read(url), template.turn_marks)
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: no such file, expected a SentencePiece model; check the path"
        ) from e


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
    from rich.console import Console
    from rich.text import Text

    text = Text()
    for number, piece in enumerate(found.pieces):
        shade = ("on color(22)", "on color(28)") if piece.trained else ("", "on color(236)")
        text.append(piece.text, style=shade[number % 2])
    console = Console(highlight=False, soft_wrap=True)
    console.print(found.example.id, found.summary(), sep="\n", markup=False)
    console.print(text)


@examples_app.command("stats")
def stats(
    url: ExamplesUrl,
    tokenizer: TokenizerUrl = None,
    family: Family = "gemma3",
    system_instruction: System = None,
    as_json: Json = False,
) -> None:
    """Count examples and measure their lengths."""
    from tuneloop.training.chat_templates import chat_template_named
    from tuneloop.training.export.inspect import iter_examples
    from tuneloop.training.export.lengths import summarise

    chat = chat_template_named(family)
    measured: dict[str, Counter[int]] = {}
    count = 0
    processor = _tokenizer(tokenizer, chat)
    for _, example in iter_examples(url):
        count += 1
        lengths = {
            "prompt_characters": len(example.prompt),
            "response_characters": len(example.response),
        }
        if processor is not None:
            from tuneloop.training.text.encode import encode_generation_prompt, encode_response

            before = encode_generation_prompt(processor, example.prompt, system_instruction, chat)
            lengths["prompt_tokens"] = len(before)
            lengths["response_tokens"] = len(encode_response(processor, example.response, chat))
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
        sys.stdout.buffer.write(encode_line(VIEWS[view](example)))
