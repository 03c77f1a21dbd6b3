"""Show aliases and their histories; find the run that an alias names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from tuneloop.artifacts.aliases import AliasChange


MODEL = "model"
NAME = 34
"""Columns for the name of a model in a table, which has 80 or more."""


def run_of(name: str, artifacts: str) -> str:
    """Return the id of the run that an alias names; another name is returned as it is.

    Raises:
        UsageError: the alias names a stored model.
    """
    from tuneloop.artifacts.aliases import read_current

    change = read_current(artifacts, name)
    if change is None:
        return name
    if change.model.kind != "run":
        raise UsageError(
            f"alias {name}: names the stored model {change.model.name}, expected a run; its files"
            f" are shown by `tuneloop models show {name}`"
        )
    return change.model.name


def as_json(change: AliasChange) -> dict[str, Any]:
    """Return a change for `--json`."""
    return change.model_dump(mode="json")


def print_aliases(current: Iterable[AliasChange], *, is_first: bool = False) -> None:
    """Print a table of aliases; nothing without any.

    Args:
        current: newest change of each alias.
        is_first: whether nothing was printed before, so that no blank line is needed.
    """
    table = _table("alias\n ", f"{MODEL}\n  gate", "change\n ", "at\n  who")
    for each in current:
        model = f"{each.model.name}\n  {_gate(each)}"
        _add(table, each.alias, model, str(each.number), _author(each))
    _print(table, is_first=is_first)


def print_history(history: list[AliasChange]) -> None:
    """Print a table of the changes of an alias, the newest first."""
    table = _table("change\n ", f"{MODEL}\n  why", "action\n  gate", "at\n  who")
    for each in reversed(history):
        action = each.action if each.restores is None else f"back to {each.restores}"
        model = f"{each.model.name}\n  {each.why}" if each.why else each.model.name
        _add(table, str(each.number), model, f"{action}\n  {_gate(each)}", _author(each))
    _print(table)


def _author(change: AliasChange) -> str:
    at = datetime.fromisoformat(change.at).astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
    return f"{at}\n  {change.who}"


def _gate(change: AliasChange) -> str:
    gate = "passed" if change.gate and change.gate.passed else "failed" if change.gate else "none"
    return f"{gate}, forced" if change.forced else gate


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        # People copy the name of a model, so other columns are folded first.
        table.add_column(
            column, overflow="fold", min_width=NAME if column.startswith(MODEL) else None
        )
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))


def _print(table: Table, *, is_first: bool = False) -> None:
    from tuneloop.cli.live.console import make_console

    if table.row_count and not is_first:
        typer.echo("")
    if table.row_count:
        make_console().print(table)
