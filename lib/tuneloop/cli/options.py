"""Options of single verbs, and printing of results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.runs.results import StageResult

DEFAULT_STORE = "http://127.0.0.1:8000"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
StoreUrl = Annotated[str, typer.Option("--store", help="URL of the trace store.")]
NewSeed = Annotated[
    bool, typer.Option("--new-seed", help="Draw a seed: another run of the same spec.")
]
PollSeconds = Annotated[
    float, typer.Option("--poll-seconds", min=0.1, help="Between two looks at the cluster.")
]


def chosen_seed(seed: int | None, new_seed: bool) -> int | None:
    """The seed asked for; None leaves it to the spec."""
    if not new_seed:
        return seed
    if seed is not None:
        raise UsageError("--seed and --new-seed: found both, expected at most one; drop one")
    import secrets

    drawn = secrets.randbelow(2**32)
    typer.echo(f"seed     {drawn} (pass --seed {drawn} to continue this run)", err=True)
    return drawn


def print_json(value: Any) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_run(
    artifacts: str, run_id: str, stages: list[StageResult], *, as_json: bool
) -> dict[str, Any]:
    """Print what a run came to; returns it."""
    from tuneloop.cli import display

    summary = display.run_summary(artifacts, run_id, stages)
    if as_json:
        print_json(summary)
    else:
        display.print_run(summary, stages)
    return summary
