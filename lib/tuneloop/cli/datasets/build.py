"""The verb that builds a dataset: it shows what each rule removes, then publishes the traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from tuneloop.cli.shared.options import DEFAULT_STORE, MOST, MOST_SEED, Json, StoreUrl, print_json
from tuneloop.errors import UsageError

_RULES = "Rules on the quality of traces"

Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD>=VALUE",
        help="Keep traces whose field compares so, by >=, <=, = or !=; repeatable. Fields: reward,"
        " length, created_at, source, model_digest, scores.NAME, labels.NAME, and paths into meta"
        " such as /model/name.",
        rich_help_panel=_RULES,
    ),
]
MinPassRate = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Smallest share of a prompt's traces that pass.",
        rich_help_panel=_RULES,
    ),
]
MaxPassRate = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Largest share of a prompt's traces that pass; below 1 it removes prompts that are"
        " always solved.",
        rich_help_panel=_RULES,
    ),
]
PassThreshold = Annotated[
    float,
    typer.Option(
        min=-MOST,
        max=MOST,
        help="Reward from which a trace passes.",
        rich_help_panel=_RULES,
    ),
]
NearDuplicates = Annotated[
    Literal["trace", "prompt"] | None,
    typer.Option(
        help="Remove near-duplicates: compare whole traces, or prompts alone.",
        rich_help_panel=_RULES,
    ),
]
PerCluster = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST,
        help="Maximum number of traces per cluster of near-duplicates.",
        rich_help_panel=_RULES,
    ),
]
BestOf = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST, help="Maximum number of traces per prompt.", rich_help_panel=_RULES
    ),
]
BestBy = Annotated[
    str,
    typer.Option(
        help="Field whose largest values --best-of keeps; of equal ones, the first in the order of"
        " --strategy.",
        rich_help_panel=_RULES,
    ),
]
Cap = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COUNT",
        help="Maximum number of traces for each value of a field, such as source=1000; repeatable.",
        rich_help_panel=_RULES,
    ),
]
Parents = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="KEY[=WEIGHT]",
        help="Select among the traces of a published dataset, without those deleted from the store;"
        " repeatable. Of several datasets, the shares are in proportion to the weights.",
        rich_help_panel=_RULES,
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=MOST, help="Maximum number of traces.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=MOST_SEED, help="Seed of the selection; default: random, then stored."),
]


def datasets_build(
    name: Annotated[str, typer.Argument(help="Dataset name.")],
    version: Annotated[str, typer.Argument(help="Dataset version, such as v1.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="Name of the prompt template (recipe); chat_v1 is for chat with reasoning."
        ),
    ] = "trace_sft_v1",
    instruction: Annotated[
        str | None, typer.Option(help="Text appended to every prompt, in training and evaluation.")
    ] = None,
    filters: Annotated[
        str, typer.Option("--filter", help="JSON object that the meta of a trace must match.")
    ] = "{}",
    limit: Limit = 1_000_000,
    strategy: Annotated[str, typer.Option(help="Selection: latest or random.")] = "latest",
    seed: Seed = None,
    include_evaluation: Annotated[
        bool,
        typer.Option(
            "--include-evaluation",
            help="Also select answers of evaluated models: traces with the source evaluation.",
        ),
    ] = False,
    where: Where = None,
    min_pass_rate: MinPassRate = None,
    max_pass_rate: MaxPassRate = None,
    pass_threshold: PassThreshold = 1.0,
    near_duplicates: NearDuplicates = None,
    per_cluster: PerCluster = 1,
    best_of: BestOf = None,
    best_by: BestBy = "reward",
    cap: Cap = None,
    parents: Parents = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be selected; write nothing.")
    ] = False,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Build a dataset. Freezes a selection of traces as NAME-VERSION.

    First it prints how many traces each rule removes.
    """
    from tuneloop.datasets.selection.expressions import build_rules

    try:
        rules = build_rules(
            where or (),
            cap or (),
            parents or (),
            pass_rate=(pass_threshold, min_pass_rate, max_pass_rate),
            near_duplicates=(near_duplicates, per_cluster),
            best_of=(best_of, best_by),
        )
    except ValueError as e:
        raise UsageError(f"rules of the selection: {e}; fix the option") from e
    request: dict[str, Any] = {
        "dataset_name": name,
        "dataset_version": version,
        "recipe": recipe,
        "instruction": instruction,
        "filters": _filters(filters),
        "limit": limit,
        "selection_strategy": strategy,
        "seed": seed,
        "include_evaluation": include_evaluation,
        "selection": _checked(rules),
    }
    _preview_and_build(request, store, dry_run=dry_run, as_json=as_json)


def _preview_and_build(
    request: dict[str, Any], store: str, *, dry_run: bool, as_json: bool
) -> None:
    from tuneloop.traces.client import TraceClient

    preview_id = None
    with TraceClient(store) as client:
        if dry_run or not as_json:
            preview = client.preview_dataset(request)
            if not as_json:
                _print_account(preview["account"])
                if preview.get("recipe_hint"):  # stores of earlier versions have none
                    typer.echo(f"{preview['recipe_hint']}; use --recipe chat_v1", err=True)
            # The build publishes what the preview has selected, with its seed.
            request["seed"], preview_id = preview["seed"], preview.get("preview_id")
        shown = preview if dry_run else client.build_dataset(request, preview_id)
    if as_json:
        print_json(shown)
    elif dry_run:
        typer.echo(
            f"{shown['dataset_key']}: {shown['trace_count']} traces would be selected"
            f"{', but this dataset is published already' if shown['exists'] else ''}"
        )
    else:
        typer.echo(f"{shown['dataset_key']}: {shown['trace_count']} traces")


def _filters(text: str) -> Any:
    from tuneloop.datasets.selection.expressions import parse_filters

    try:
        return parse_filters(text)
    except ValueError as e:
        raise UsageError(f"--filter {text[:60]}: {e}; quote it for the shell") from e


def _checked(rules: dict[str, Any] | None) -> dict[str, Any] | None:
    """Validate the rules before the store does, so that an error names the option's value."""
    if rules is None:
        return None
    from pydantic import ValidationError

    from tuneloop.datasets.selection.spec import SelectionSpec
    from tuneloop.validation import first_error

    try:
        SelectionSpec.model_validate(rules)
    except ValidationError as e:
        raise UsageError(f"rules of the selection: {first_error(e)}; fix the options") from e
    return rules


def _print_account(account: Mapping[str, Any]) -> None:
    from rich.table import Table

    from tuneloop.cli.live.console import make_console
    from tuneloop.datasets.selection.words import describe_rule, notes

    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("rule", "left"),
        ("removed", "right"),
        ("left", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_row("traces in the store", "", f"{account['considered']:,}", "")
    for rule in account["rules"]:
        table.add_row(
            describe_rule(rule["rule"]),
            f"{rule['removed']:,}",
            f"{rule['left']:,}",
            notes(rule["missing"], rule["facts"]),
        )
    make_console().print(table)
