"""Verbs of eval sets."""

from __future__ import annotations

from typing import Annotated

import typer

from tuneloop.cli.options import MOST, GymCount, GymSeed, GymTask, Json, given_file, print_json
from tuneloop.cli.terminal import write_data
from tuneloop.errors import DataError, UsageError

app = typer.Typer(help="Validate eval sets, and score answers.", no_args_is_help=True)

GROUPED_LINES = 8
"""Lines that `eval-sets check` lists for one cause, besides the first."""


def register(parent: typer.Typer) -> None:
    """Add the verbs."""
    parent.add_typer(app, name="eval-sets")


@app.command("generate")
def eval_sets_generate(
    task: GymTask,
    count: GymCount = 100,
    seed: GymSeed = 1,
) -> None:
    """Print problems of a reasoning-gym task as an eval set."""
    from tuneloop.evaluation.sets.schema import EvalItem, dump_eval_set
    from tuneloop.traces.gym import draw_problems

    items = [
        EvalItem(
            id=f"{task}-{seed}-{number:05d}",
            prompt=problem.question,
            expected_answer=problem.answer,
            category=task,
            difficulty="medium",
        )
        for number, problem in enumerate(draw_problems(task, count, seed), start=1)
    ]
    write_data(dump_eval_set(items))


def _grouped(problems: list[str], file: str) -> list[str]:
    """Join the problems that differ only in their line: one cause, one line of output."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        line, _, cause = problem.removeprefix(f"{file}:").partition(": ")
        places.setdefault(cause if line.isdecimal() else problem, []).append(line)
    shown = []
    for cause, (first, *more) in places.items():
        if not first.isdecimal():
            shown.append(cause)
            continue
        listed = ", ".join(more[:GROUPED_LINES])
        rest = f" and {len(more) - GROUPED_LINES} more" if len(more) > GROUPED_LINES else ""
        also = f" (also on line{'s' * (len(more) > 1)} {listed}{rest})" if more else ""
        shown.append(f"{file}:{first}: {cause}{also}")
    return shown


@app.command("check")
def eval_sets_check(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.jsonl",
            callback=given_file,
            help="Eval set file; - reads standard input.",
        ),
    ],
) -> None:
    """Validate an eval set. Print every problem with its lines."""
    from tuneloop.evaluation.sets.schema import parse_eval_set, problems
    from tuneloop.storage import files

    try:
        data = files.read(file)
    except FileNotFoundError as e:
        raise UsageError(f"{file}: no such file, expected an eval set; check the path") from e
    found = problems(data, file)
    for problem in _grouped(found, file):
        typer.echo(problem, err=True)
    if found:
        raise DataError(f"{file}: {len(found)} problems, expected none; fix the lines above")
    items = parse_eval_set(data, file)
    categories = len({item.category for item in items})
    typer.echo(f"{file}: {len(items)} items in {categories} categories, no problems")


@app.command("power")
def eval_sets_power(
    gain: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Gain to find (tuned - base): 0.05 is 5 points."),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Items of the set: print the gain that they show."),
    ] = None,
    base: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracy of the base model, 0 to 1.")
    ] = 0.5,
    power: Annotated[
        float, typer.Option(min=0.01, max=0.999, help="Probability of finding the gain.")
    ] = 0.8,
    discordance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of items that exactly one of the models answers correctly; an earlier"
            " report shows it. Default: from --base, with a correlation of 0.5 between the models.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print how many items find a gain, or which gain a number of items can show."""
    from tuneloop.evaluation.planning import plan_gain, plan_items

    if (gain is None) == (items is None):
        raise UsageError("eval-sets power: expected one of --gain and --items; give one of them")
    if gain is not None:
        planned = plan_items(gain, base=base, power=power, discordance=discordance)
    else:
        assert items is not None
        planned = plan_gain(items, base=base, power=power, discordance=discordance)
    if as_json:
        print_json(planned.as_json())
    else:
        typer.echo(planned.text())
