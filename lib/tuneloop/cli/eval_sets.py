"""Verbs of eval sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.cli.shared.options import (
    MOST,
    STDOUT,
    GymCount,
    GymSeed,
    GymTask,
    Json,
    given_file,
    print_json,
)
from tuneloop.cli.shared.terminal import write_data
from tuneloop.errors import DataError, SpecError, UsageError

if TYPE_CHECKING:
    from tuneloop.evaluation.scorers.answers import ScoredAnswer
    from tuneloop.evaluation.scorers.scoring import ScorerName

app = typer.Typer(help="Validate eval sets, and score answers.", no_args_is_help=True)

GROUPED_LINES = 8
"""Lines that `eval-sets check` lists for one cause, besides the first."""
WHOLE_TEXT = "none"
"""Value of `score --recipe` for answers that follow no grammar: the whole text is the answer."""


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
    from tuneloop.evaluation.sets.generated import header_of, problem_to_item
    from tuneloop.evaluation.sets.schema import dump_eval_set
    from tuneloop.traces.gym import draw_problems

    problems = list(draw_problems(task, count, seed))
    items = [
        problem_to_item(problem, f"{task}-{seed}-{number:05d}")
        for number, problem in enumerate(problems, start=1)
    ]
    write_data(dump_eval_set(items, header_of(problems)))


@app.command("convert")
def eval_sets_convert(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", callback=given_file, help="Dataset file; - reads standard input."
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--from", help="Kind of dataset: inspect, lm-eval, openai-evals or datasets (Parquet)."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="SET.jsonl",
            help="New eval set; - prints it.",
        ),
    ],
    category: Annotated[
        str | None, typer.Option(help="Category of the items that state none.")
    ] = None,
    category_from: Annotated[
        str | None,
        typer.Option(help="Key of a row, or of its metadata or document, with the category."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Keys of an item and the columns that hold them, such as"
            " prompt=question,expected_answer=answer."
        ),
    ] = None,
    answer_after: Annotated[
        str | None,
        typer.Option(
            metavar="MARK",
            help="The answer is the text after the last of these marks, such as '####'.",
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="Rows with a system message: drop them, or prepend the text to the question."
        ),
    ] = "drop",
    name: Annotated[
        str | None, typer.Option(help="Name that the set states; needs --set-version.")
    ] = None,
    set_version: Annotated[
        str | None, typer.Option(help="Version that the set states; needs --name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a dataset of another tool. List the rows that were dropped, with the reason."""
    from tuneloop.evaluation.sets.converters.convert import convert, reasons
    from tuneloop.evaluation.sets.converters.options import make_header, make_options
    from tuneloop.evaluation.sets.planned import stem
    from tuneloop.evaluation.sets.schema import dump_eval_set
    from tuneloop.storage import files, paths

    options = make_options(
        kind,
        category=category,
        category_from=category_from,
        columns=columns,
        answer_after=answer_after,
        system=system,
    )
    header = make_header(name, set_version)
    output = output if output == STDOUT else paths.normal(output)
    if as_json and output == STDOUT:
        raise UsageError("--json: prints the accounts, expected -o with a file; give a file")
    try:
        data = files.read(file)
    except FileNotFoundError as e:
        raise UsageError(f"{file}: no such file, expected a dataset; check the path") from e
    found = convert(data, file, kind, options, prefix=header.name if header else stem(output))
    made = dump_eval_set(found.items, header)
    if output == STDOUT:
        write_data(made)
    elif not files.publish(output, made):
        raise UsageError(f"{output}: exists with another content; give a new name, or delete it")
    if as_json:
        print_json(found.as_json())
        return
    for reason in reasons(found):
        typer.echo(reason, err=True)
    counts = f"{found.rows} rows, {len(found.items)} items, {found.dropped_rows} dropped"
    typer.echo(f"{output}: {counts}", err=True)


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


@app.command("score")
def eval_sets_score(
    eval_set: Annotated[
        str,
        typer.Argument(metavar="SET.jsonl", callback=given_file, help="Eval set file."),
    ],
    answers: Annotated[
        str,
        typer.Argument(
            metavar="ANSWERS.jsonl",
            callback=given_file,
            help='One {"id": ..., "completion": ...} per line; - reads standard input.',
        ),
    ],
    scorer: Annotated[
        str,
        typer.Option(
            help="Scorer of items that name none: a name, a JSON object with kind and options, or"
            " a Python file."
        ),
    ] = "exact",
    recipe: Annotated[
        str,
        typer.Option(
            help="Prompt template whose grammar finds the answer, for the strict score; none takes"
            " the whole text."
        ),
    ] = "trace_sft_v1",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Allow a scorer that runs programs or sends data: code or judge; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the answers of any model, without a run."""
    from tuneloop.evaluation.scorers.answers import as_json as row_as_json
    from tuneloop.evaluation.scorers.answers import read_answers, score_answers, summary
    from tuneloop.evaluation.sets.schema import parse_eval_set

    items = parse_eval_set(read_content(eval_set, "an eval set"), eval_set)
    given = read_answers(read_content(answers, "answers"), answers, {item.id for item in items})
    parse, is_chat = _grammar(recipe)
    scored = score_answers(
        items, given, read_scorer(scorer), parse=parse, is_chat=is_chat, allow=allow or ()
    )
    counts = summary(scored)
    if as_json:
        print_json({"scorer": scorer, "summary": counts, "items": list(map(row_as_json, scored))})
    else:
        _print_scored(scored, counts)


def read_content(place: str, what: str) -> bytes:
    """Read a file that the user named; a missing one is a usage error."""
    from tuneloop.storage import files

    try:
        return files.read(place)
    except FileNotFoundError as e:
        raise UsageError(f"{place}: no such file, expected {what}; check the path") from e


def read_scorer(name: str) -> ScorerName:
    """Return a scorer from the option: load a file, or parse a JSON object."""
    from tuneloop.evaluation.scorers.scoring import scorer_of
    from tuneloop.evaluation.scorers.user_file import is_user_file, load_user_scorer

    if is_user_file(name):
        return load_user_scorer(read_content(name, "a Python file with a scorer"), name)
    found: Any = name
    if name.lstrip().startswith("{"):
        try:
            found = json.loads(name)
        except ValueError as e:
            raise UsageError(
                f"--scorer {name}: not JSON ({e}), expected a JSON object; quote it for the shell"
            ) from e
    try:
        scorer_of(found, "--scorer")
    except SpecError as e:
        raise UsageError(f"{e}; correct the option") from e
    return found  # type: ignore[no-any-return]


def _grammar(recipe: str) -> tuple[Callable[[str], str | None], bool]:
    """Return the grammar of a recipe, and whether it is that of a chat."""
    from tuneloop.training.prompt_templates import RECIPES

    if recipe == WHOLE_TEXT:
        return (lambda text: text), False
    if recipe not in RECIPES:
        known = ", ".join(sorted((*RECIPES, WHOLE_TEXT)))
        raise UsageError(f"--recipe {recipe}: unknown, expected one of {known}")
    found = RECIPES[recipe]
    return (lambda text: found.parse_response(text).answer), found.is_chat


def _print_scored(scored: Sequence[ScoredAnswer], counts: dict[str, Any]) -> None:
    """Print one line per item and the summary to stdout."""
    from rich.table import Table
    from rich.text import Text

    from tuneloop.cli.live.console import make_console

    console = make_console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # Fixed widths: a long cell must not take the room of the others.
    widths = {"item": 14, "state": 9, "value": 5, "lenient": 9, "answer": 14}
    widths["why"] = max(10, console.width - sum(widths.values()) - 2 * len(widths))
    for column, width in widths.items():
        table.add_column(column, width=width, no_wrap=True, overflow="ellipsis")
    for row in scored:
        judged, lenient = row.strict, row.lenient
        cells = (
            row.item.id,
            judged.state,
            f"{judged.value:.2f}",
            "" if lenient == judged else lenient.state,
            " ".join((judged.answer or lenient.answer or "").split()),
            judged.explanation or "",
        )
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print()
    totals = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    totals.add_column("score")
    for column in (*counts["states"], "of", "mean value"):
        totals.add_column(column, justify="right")
    for name, states, value in (
        ("strict", "states", "value"),
        ("lenient", "lenient_states", "lenient_value"),
    ):
        numbers = (*counts[states].values(), counts["items"])
        totals.add_row(name, *map(str, numbers), f"{counts[value]:.3f}")
    console.print(totals)
    if counts["missing"]:
        console.print(
            f"\n{counts['missing']} of {counts['items']} items have no answer in the file; they"
            " count as no_answer",
            markup=False,
        )
