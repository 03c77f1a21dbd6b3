from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tuneloop.cli.option_groups import RunOptions, expand_groups
from tuneloop.errors import UsageError
from tuneloop.runs.spec_file import load_run_spec


@dataclass(frozen=True)
class Place:
    """Where a thing is."""

    city: Annotated[str, typer.Argument(help="The city.")]
    house: Annotated[int, typer.Option("--house", help="The number.")] = 1


def invoke(*arguments: str) -> tuple[int, str]:
    """Run a made-up verb that takes a group between two options of its own."""

    def show(
        loud: Annotated[bool, typer.Option("--loud")] = False, *, place: Place, times: int = 1
    ) -> None:
        """Show a place."""
        text = f"{place.city} {place.house}\n" * times
        typer.echo(text.upper() if loud else text, nl=False)

    app = typer.Typer()
    app.command()(expand_groups(show))
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_the_fields_of_a_group_are_options_and_arguments() -> None:
    assert invoke("Bern") == (0, "Bern 1\n")
    assert invoke("Bern", "--house", "7", "--loud", "--times", "2") == (0, "BERN 7\nBERN 7\n")


def test_types_and_requirements_of_the_fields_hold() -> None:
    assert invoke()[0] == 2
    assert invoke("Bern", "--house", "many")[0] == 2


def test_help_shows_fields_and_not_the_group() -> None:
    code, out = invoke("--help")
    assert code == 0
    assert "--house" in out
    assert "The city." in out
    assert "PLACE" not in out.upper().replace("SHOW A PLACE", "")


@pytest.mark.parametrize("dataset", ["", "x" * 201])
def test_an_option_is_checked_like_its_field(dataset: str, repository: Path) -> None:
    path = str(repository / "jobs" / "configs" / "demo.yaml")
    with pytest.raises(UsageError, match=r"^--dataset is '.*correct the option"):
        RunOptions(path, dataset=dataset).with_options(load_run_spec(path))


def test_options_override_fields(repository: Path) -> None:
    path = str(repository / "jobs" / "configs" / "demo.yaml")
    options = RunOptions(path, artifacts="a/b", store="http://127.0.0.1:1", dataset="mine")
    spec = options.with_options(load_run_spec(path))
    assert spec.execution.artifacts == "a/b"
    assert (spec.execution.store_url, spec.dataset) == ("http://127.0.0.1:1", "mine")


def test_a_seed_outside_32_bits_is_refused() -> None:
    app = typer.Typer()

    def show(run: RunOptions) -> None:
        typer.echo(run.seed)

    app.command()(expand_groups(show))
    assert CliRunner().invoke(app, ["x.yaml", "--seed", "4294967295"]).exit_code == 0
    assert CliRunner().invoke(app, ["x.yaml", "--seed", "4294967296"]).exit_code == 2
