"""Verbs of eval sets."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuneloop.cli.options import GymCount, GymSeed, GymTask, given_file
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
    sys.stdout.buffer.write(dump_eval_set(items))


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
