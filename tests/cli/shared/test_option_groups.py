from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from pydantic import model_validator
from typer.testing import CliRunner

from tests.builders import TinyRun
from tuneloop import cli
from tuneloop.cli.shared.option_groups import RunOptions, expand_groups
from tuneloop.errors import UsageError
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.run import RunSpec


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 2**32}, "--seed is 4294967296: seed is 4294967296, expected"),
        ({"seed": -1}, "--seed is -1: "),
        ({"dataset": ""}, "--dataset is ''"),
        ({"image": ""}, "--image: image ''"),
        ({"image": "registry.example/tuneloop:latest"}, "--image: image 'registry"),
        ({"image": "registry.example/a b@sha256:" + "0" * 64}, "--image: image "),
        ({"image": "registry.example/\u00fc\n:x", "allow_tag": True}, "--image: image "),
        ({"seed": 2**32, "dataset": "x"}, "--seed is "),
    ],
)
def test_an_option_is_checked_with_the_whole_spec(
    options: dict[str, Any], said: str, tiny_run: TinyRun
) -> None:
    tiny_run.change(execution__cluster={"namespace": "n"})
    path = str(tiny_run.spec_path)
    with pytest.raises(UsageError) as caught:
        RunOptions(path, **options).with_options(load_run_spec(path))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


class RuledSpec(RunSpec):
    """A run spec with a rule about two keys, which the check of a single field cannot know."""

    @model_validator(mode="after")
    def _is_never_there(self) -> RuledSpec:
        if self.dataset == "mine" and self.execution.artifacts == "memory://a":
            raise ValueError("dataset mine is never at memory://a")
        return self


def test_a_rule_about_several_keys_names_the_options(tiny_run: TinyRun) -> None:
    path = str(tiny_run.spec_path)
    given = load_run_spec(path).model_dump(by_alias=True, exclude_unset=True)
    spec = RuledSpec.model_validate(given)
    with pytest.raises(UsageError, match=r"^--dataset is 'mine' and --artifacts is 'memory://a': "):
        RunOptions(path, dataset="mine", artifacts="memory://a").with_options(spec)
    RunOptions(path, dataset="mine", artifacts="memory://b").with_options(spec)


def test_what_a_spec_sets_stays_known(tiny_run: TinyRun) -> None:
    """Checks and defaults ask which keys a spec sets."""
    place = {"namespace": "n", "train": {"memory": "8Gi"}}
    path = str(tiny_run.change(execution__cluster=place).spec_path)
    spec = RunOptions(path, dataset="mine", seed=7).with_options(load_run_spec(path))
    assert spec.execution.cluster is not None
    assert spec.execution.cluster.train.model_fields_set == {"memory"}
    assert spec.execution.cluster.eval.model_fields_set == set()


def test_every_number_on_the_command_line_has_bounds() -> None:
    """`--days 1e300` was an OverflowError, and no seed has more than 32 bits."""
    seen = 0
    for words, verb in commands(typer.main.get_command(cli.app)):
        for each in verb.params:
            if getattr(each.type_descriptor, "annotation", None) in (int, float):
                assert None not in (each.min, each.max), f"{words} {each.opts}"
                seen += 1
    assert seen > 30


def commands(command: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{words} {name}")


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
