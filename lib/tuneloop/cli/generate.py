"""Verbs that ask a model: generate, chat."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from tuneloop.cli.shared.option_groups import expand_groups
from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    MOST,
    MOST_SEED,
    Json,
    artifacts_option,
    print_json,
)
from tuneloop.cli.shared.terminal import stop_if_lost
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.model_manifest import ModelManifest
    from tuneloop.models.answering import Answer, Answerer


@dataclass(frozen=True)
class AskedModel:
    """A model, and how it is asked."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a stored model, alias, run id, or folder (a path with a slash, or any"
            " fsspec URL).",
        ),
    ]
    artifacts: Annotated[str, artifacts_option("Artifacts URL that holds models and runs.")] = (
        DEFAULT_ARTIFACTS
    )
    system: Annotated[
        str | None, typer.Option("--system", help="System instruction; default: none.")
    ] = None
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=MOST, help="Maximum tokens of an answer.")
    ] = 256
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            min=0,
            max=100,
            help="0 takes the most probable token; a higher value makes rare tokens more probable.",
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            min=0,
            max=1,
            help="Draw only from the most probable tokens that together have this probability.",
        ),
    ] = 1.0
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Seed of the draws.")
    ] = 0
    thinking: Annotated[
        Literal["steps", "plain"],
        typer.Option("--thinking", help="Let a thinking model think (steps), or not (plain)."),
    ] = "plain"

    def open(self) -> Answerer:
        """Load the model."""
        _keep_compiled_programs()
        from tuneloop.models.answering import Answerer, Settings, open_model

        folder, manifest = self._find()
        settings = Settings(
            self.system, self.max_new_tokens, self.temperature, self.top_p, self.seed
        )
        return Answerer(open_model(folder, manifest, self.thinking), settings)

    def _find(self) -> tuple[str, ModelManifest | None]:
        """Return the folder of the model, and its manifest if it has one."""
        from tuneloop.models.sources import is_hub_url
        from tuneloop.runs.planning.base_model import find_model
        from tuneloop.storage import paths

        if is_hub_url(self.model):
            raise UsageError(
                f"model {self.model!r}: is neither a folder nor a stored model; add a model of the"
                f" hub first: tuneloop models add NAME {self.model}"
            )
        if "/" in self.model or self.model.startswith("."):
            return _find_folder(paths.absolute(self.model))
        found = find_model(self.model, paths.absolute(self.artifacts))
        return found.folder, found.manifest


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (generate, chat):
        app.command()(expand_groups(verb))


def generate(
    asked: AskedModel,
    prompt: Annotated[
        str, typer.Option("--prompt", help="User text; - reads it from standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Print a model's answer to one prompt, which the model's chat template wraps."""
    text = _stdin().read() if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("--prompt: found no text, expected the user's text")
    _print(asked.open().ask(text), asked, as_json=as_json)


def chat(asked: AskedModel, as_json: Json = False) -> None:
    """Talk with a model. Each line is a turn; the end of the input (Ctrl-D) ends the chat."""
    answerer = asked.open()
    history: list[tuple[str, str]] = []
    for line in _lines():
        answer = answerer.ask(line, history)
        _print(answer, asked, as_json=as_json)
        if answer.forgotten:
            del history[: answer.forgotten]
            typer.echo(
                f"note: the model's context is full; the oldest turns ({answer.forgotten}) are"
                " forgotten",
                err=True,
            )
        history.append((line, answer.text))


def _stdin() -> TextIO:
    """Return standard input, in which bytes that are not UTF-8 are replaced."""
    if sys.stdin is None:
        raise UsageError("standard input is closed, expected the user's text; pass --prompt TEXT")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return sys.stdin


def _lines() -> Iterator[str]:
    """Yield the user's turns: lines that are not blank."""
    stdin = _stdin()
    if not stdin.isatty():
        for line in stdin:
            if line.strip():
                yield line.strip()
        return
    import readline  # noqa: F401 - input() then has a history and can be edited

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            typer.echo("", err=True)
            return
        if line:
            yield line


def _print(answer: Answer, asked: AskedModel, *, as_json: bool) -> None:
    if as_json:
        value: dict[str, Any] = {"model": asked.model, **asdict(answer)}
        print_json(value)
    else:
        typer.echo(answer.text)
    sys.stdout.flush()
    stop_if_lost()
    if answer.hit_limit and not as_json:
        typer.echo(
            f"note: the answer was cut after {answer.tokens} tokens; raise --max-new-tokens",
            err=True,
        )


def _find_folder(url: str) -> tuple[str, ModelManifest | None]:
    from tuneloop.artifacts.model_manifest import MANIFEST, load_model_manifest
    from tuneloop.models.sources import refuse_credentials
    from tuneloop.storage import files, paths

    refuse_credentials(url)
    if files.exists(paths.join(url, MANIFEST)):
        return url, load_model_manifest(url)
    return url, None


def _keep_compiled_programs() -> None:
    """Let JAX store compiled programs, as stages do; JAX reads this when it is imported."""
    from tuneloop.stages.lifecycle.command import stage_env
    from tuneloop.storage import paths

    for name, value in stage_env(paths.cache_folder(), "").items():
        if name.startswith("JAX_"):
            os.environ.setdefault(name, value)
