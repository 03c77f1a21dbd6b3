"""Verbs on many runs: `tuneloop runs list` and its neighbours."""

from __future__ import annotations

import typer

from tuneloop.cli.history import freeing, looking, verifying
from tuneloop.cli.shared.option_groups import expand_groups


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(no_args_is_help=True)
    app.add_typer(group, name="runs", help="List, compare and delete runs, and free their storage.")
    group.command("list")(looking.list_)
    group.command()(looking.groups)
    for verb in (looking.show, looking.compare, freeing.delete, freeing.du, freeing.gc):
        group.command()(expand_groups(verb))
    app.command()(expand_groups(verifying.verify))
