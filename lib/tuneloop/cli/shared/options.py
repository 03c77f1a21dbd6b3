"""Common options, and functions that print results."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.errors import TuneloopError, UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.runs.run_manifest import RunManifest
    from tuneloop.history.cost.prices import PriceList
    from tuneloop.runs.results import StageResult

MOST = 2**31 - 1
"""Maximum of options that count things, as of the whole numbers of specs."""
MOST_SEED = 2**32 - 1
MOST_SECONDS = 1e9
MOST_DAYS = 36_500
STDOUT = "-"
"""Place of an output that goes to standard output."""


def given_file(context: typer.Context, place: str | None) -> str | None:
    """Let a verb read a file that the user named, also if it is a pipe or `-`.

    It is the callback of every argument and option that names an input file, so that an input
    which cannot be read is refused before the verb does anything.
    """
    if place is None or context.resilient_parsing:
        return place
    from tuneloop.storage.places import given

    return given(place)


def setting(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Return the value of an option; one from the environment is checked like all settings.

    It is the callback of every option with a variable, so that an error names the variable.

    Raises:
        UsageError: the variable has an invalid value.
    """
    name = str(parameter.name)
    source = context.get_parameter_source(name)
    if context.resilient_parsing or source is None or source.name != "ENVIRONMENT":
        return value
    return environment_value(name)


def artifacts_setting(
    context: typer.Context, parameter: typer.CallbackParam, value: str | None
) -> str | None:
    """Return the value of `--artifacts`; the callback of that option.

    Raises:
        UsageError: nothing can be published there, or the variable has an invalid value.
    """
    value = setting(context, parameter, value)
    if value is not None and not context.resilient_parsing:
        from tuneloop.storage import paths

        paths.check_artifacts(value)
    return value


def environment_value(field: str) -> Any:
    """Return a setting of the environment, or its default.

    Raises:
        UsageError: the variable has an invalid value; the message names it.
    """
    from tuneloop.settings.environment import read_settings, variable
    from tuneloop.storage import paths

    value = getattr(read_settings(), field)
    if field == "artifacts":
        try:
            paths.check_artifacts(value)
        except UsageError as e:
            raise UsageError(f"environment variable {variable(field)}: {e}") from e
    return value


def artifacts_option(text: str) -> Any:
    """Return the option `--artifacts` with a help text, for verbs that read no spec."""
    return typer.Option(
        "--artifacts", envvar="TUNELOOP_ARTIFACTS", callback=artifacts_setting, help=text
    )


DEFAULT_ARTIFACTS = ".tuneloop/artifacts"
DEFAULT_STORE = "http://127.0.0.1:8000"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store", envvar="TUNELOOP_STORE", callback=setting, help="URL of the trace store."
    ),
]
NewSeed = Annotated[
    bool, typer.Option("--new-seed", help="Draw a new seed, which makes a new run.")
]
Prices = Annotated[
    str | None,
    typer.Option(
        "--prices",
        callback=given_file,
        help="YAML file with prices of accelerators; default: the one that the spec names, else the"
        " one that the variable TUNELOOP_PRICES names.",
    ),
]
GymTask = Annotated[
    str, typer.Argument(metavar="TASK", help="Task of reasoning-gym, such as chain_sum.")
]
GymCount = Annotated[int, typer.Option(min=1, max=MOST, help="Number of problems.")]
GymSeed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the problems.")]
PollSeconds = Annotated[
    float,
    typer.Option(
        "--poll-seconds", min=0.1, max=MOST_SECONDS, help="Seconds between polls of the cluster."
    ),
]


def chosen_seed(seed: int | None, new_seed: bool) -> int | None:
    """Return the seed from the options; None uses the spec's."""
    if not new_seed:
        return seed
    if seed is not None:
        raise UsageError("--seed and --new-seed: found both, expected at most one; remove one")
    import secrets

    drawn = secrets.randbelow(2**32)
    typer.echo(f"seed     {drawn} (pass --seed {drawn} to continue this run)", err=True)
    return drawn


def print_json(value: Any) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def load_prices(url: str | None) -> PriceList | None:
    """Read a price list; without a URL, the one of the environment; None without both."""
    url = environment_value("prices") if url is None else url
    if url is None:
        return None
    from tuneloop.history.cost.prices import load_prices

    return load_prices(url)


def prices_of_run(url: str | None, manifest: RunManifest | None) -> PriceList | None:
    """Read the price list of an option or, without one, the one that the run's spec names.

    A spec's list may be on the machine of the planner. If it cannot be read, costs are not shown.

    Args:
        url: value of `--prices`.
        manifest: manifest of the run.
    """
    if url is not None or manifest is None:
        return load_prices(url)
    execution = manifest.spec.get("execution")
    named = execution.get("prices") if isinstance(execution, dict) else None
    try:
        return load_prices(named if isinstance(named, str) else None)
    except TuneloopError as e:
        typer.echo(f"no costs: {e}", err=True)
        return None


def find_run_manifest(artifacts: str, run_id: str) -> RunManifest | None:
    """Read the manifest of a run; None if it is missing or broken."""
    from tuneloop.artifacts.runs.run_manifest import read_run_manifest

    with contextlib.suppress(TuneloopError):
        return read_run_manifest(artifacts, run_id)
    return None


def print_run(
    artifacts: str,
    run_id: str,
    stages: list[StageResult],
    *,
    as_json: bool,
    prices: PriceList | None = None,
) -> dict[str, Any]:
    """Print the results of a run, and return them."""
    from tuneloop.cli.shared import display, summaries
    from tuneloop.history.cost import account

    summary = summaries.run_summary(artifacts, run_id, stages)
    taken = account.taken(artifacts, run_id, {s.name: s.record for s in stages}, prices)
    if as_json:
        print_json(summary | {"usage": account.as_json(taken, prices)})
    else:
        display.print_run(summary, stages, account.taken_lines(taken, prices))
    return summary
