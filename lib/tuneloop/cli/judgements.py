"""Verbs of labels and scores: `tuneloop traces label`, `labels`, `agreement` and `score`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    DEFAULT_STORE,
    MOST,
    Json,
    StoreUrl,
    artifacts_option,
    given_file,
    print_json,
)
from tuneloop.cli.shared.terminal import write_data
from tuneloop.errors import DataError, UsageError

if TYPE_CHECKING:
    from tuneloop.evaluation.trace_scores import Answered, TraceScore
    from tuneloop.traces.client import TraceClient

LabelName = Annotated[str, typer.Option("--name", help="Name of the label.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to those of traces."""
    app.command("label")(traces_label)
    app.command("labels")(traces_labels)
    app.command("agreement")(traces_agreement)
    app.command("score")(traces_score)


def traces_label(
    trace_id: Annotated[str, typer.Argument(help="Id of the trace.")],
    value: Annotated[
        str, typer.Argument(help="Value: text, or a number, true or false with --json-value.")
    ],
    name: LabelName = "review",
    reason: Annotated[str, typer.Option(help="Reason for the label.")] = "",
    who: Annotated[
        str | None,
        typer.Option(help="Your name; a store with tokens uses the name of the token."),
    ] = None,
    json_value: Annotated[
        bool, typer.Option("--json-value", help="Read the value as JSON.")
    ] = False,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Add a label to a trace. Labels are never changed, and your newest one counts."""
    from urllib.parse import quote

    from tuneloop.traces.client import TraceClient

    given: Any = value
    if json_value:
        try:
            given = json.loads(value)
        except ValueError as e:
            raise UsageError(
                f"VALUE {value}: not JSON ({e}), expected a number, true, false or a quoted text;"
                " omit --json-value for text"
            ) from e
    body = {"name": name, "value": given, "reason": reason, "who": who}
    with TraceClient(store) as client:
        label = client.send("POST", f"/api/traces/{quote(trace_id, safe='')}/labels", body)
    if as_json:
        print_json(label)
    else:
        typer.echo(f"{label['trace_id']}: {label['name']} is {label['value']!r} by {label['who']}")


def traces_labels(
    trace_id: Annotated[
        str | None, typer.Argument(help="Id of a trace; default: the labels of all traces.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only labels with this name.")] = None,
    who: Annotated[str | None, typer.Option(help="Only labels of this reviewer.")] = None,
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Print labels as NDJSON, in the order of arrival."""
    from urllib.parse import quote

    from tuneloop.jsonl import dump_line
    from tuneloop.traces.client import TraceClient
    from tuneloop.traces.judgement_client import iter_labels

    path = "/api/labels"
    filters = {"name": name, "who": who}
    if trace_id is not None:
        path, filters = f"/api/traces/{quote(trace_id, safe='')}/labels", {}
    with TraceClient(store) as client:
        for label in iter_labels(client, path, **filters):
            if name in (None, label["name"]) and who in (None, label["who"]):
                write_data(dump_line(label))


def traces_agreement(
    name: LabelName = "review", store: StoreUrl = DEFAULT_STORE, as_json: Json = False
) -> None:
    """Print how far reviewers agree: Krippendorff's alpha of each pair, and of all together."""
    from urllib.parse import urlencode

    from tuneloop.traces.client import TraceClient

    with TraceClient(store) as client:
        found = client.send("GET", f"/api/labels/agreement?{urlencode({'name': name})}")
    if as_json:
        print_json(found)
        return
    group = found["group"]
    if group is None:
        typer.echo(f"no trace has labels {name} of two reviewers")
        return
    for pair in found["pairs"]:
        typer.echo(
            f"{pair['first']} and {pair['second']}: {pair['traces']} traces, {pair['same']} with"
            f" the same label, Krippendorff's alpha {_shown(pair['alpha'])}"
        )
    typer.echo(
        f"all {group['reviewers']} reviewers: {group['traces']} traces with labels of at least two"
        f" of them, Krippendorff's alpha {_shown(group['alpha'])}"
    )
    if found["is_cut"]:
        typer.echo("only the newest labels are compared, because there are very many")


def _shown(alpha: float | None) -> str:
    return "is not defined" if alpha is None else f"{alpha:.2f}"


def traces_score(
    scorer: Annotated[
        str,
        typer.Option(help="Scorer: a name, a JSON object with kind and options, or a Python file."),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="Score the traces of this dataset; default: those of the store."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Without --dataset: only traces with this meta.source.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Maximum number of traces, from the newest."),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="SET.jsonl",
            callback=given_file,
            help="Eval set with the expected answers, joined by meta.prompt_id or by prompt;"
            " default: meta.expected_answer.",
        ),
    ] = None,
    criteria: Annotated[
        str | None, typer.Option(help="Name of the scores; default: the name of the scorer.")
    ] = None,
    reading: Annotated[
        Literal["strict", "lenient"],
        typer.Option(
            help="strict scores the final answer as it is; lenient looks for an answer in its text."
        ),
    ] = "strict",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Allow a scorer that runs programs or sends data: code or judge; repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", callback=given_file, help="Also write one row per trace to this file."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Score, but do not store the scores.")
    ] = False,
    artifacts: Annotated[str, artifacts_option("Artifacts URL.")] = DEFAULT_ARTIFACTS,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Score stored traces with a scorer of evaluations. Scoring again stores nothing twice."""
    from tuneloop.cli.eval_sets import read_content, read_scorer
    from tuneloop.evaluation.sets.schema import parse_eval_set
    from tuneloop.evaluation.trace_scores import Counts, TraceScorer, criteria_of
    from tuneloop.traces.client import TraceClient
    from tuneloop.traces.judgement_client import post_scores

    name = read_scorer(scorer)
    items = (
        None
        if expected is None
        else parse_eval_set(read_content(expected, "an eval set"), expected)
    )
    judge = TraceScorer(
        name, criteria or criteria_of(name), items, reading=reading, allow=allow or ()
    )
    counts, stored, unknown = Counts(), 0, 0
    with TraceClient(store) as client:
        traces = (
            _dataset_rows(dataset, artifacts, limit) if dataset else _rows(client, source, limit)
        )
        scores = _counted((judge.score(trace) for trace in traces), counts, output)
        requests = (each.to_request() for each in scores if each.score is not None)
        if dry_run:
            for _ in requests:
                pass
        else:
            for created, missing in post_scores(client, requests):
                stored, unknown = stored + created, unknown + missing
    if not counts.traces:
        raise DataError("no trace was found, expected at least one; check --source or --dataset")
    if as_json:
        print_json({**counts.as_json(), "stored": stored, "unknown": unknown})
        return
    typer.echo(counts.text())
    if unknown:
        typer.echo(f"{unknown} scores are not stored, because the store does not have their traces")


def _counted(scores: Iterable[TraceScore], counts: Any, output: str | None) -> Iterator[TraceScore]:
    """Pass scores on, count them, and write all of them to a file."""
    from tuneloop.jsonl import dump_line
    from tuneloop.storage import files

    lines = []
    for each in scores:
        counts.add(each)
        if output is not None:
            lines.append(dump_line(each.as_row()))
        yield each
    if output is not None:
        files.write(output, b"".join(lines))


def _dataset_rows(key: str, artifacts: str, limit: int | None) -> Iterator[Answered]:
    from itertools import islice

    from tuneloop.datasets.read import iter_rows, load_manifest

    manifest = load_manifest(artifacts, key)
    return islice((row for _, row in iter_rows(manifest, artifacts)), limit)


def _rows(client: TraceClient, source: str | None, limit: int | None) -> Iterator[Answered]:
    from tuneloop.datasets.schema import row_of_payload
    from tuneloop.jsonl import dump_line
    from tuneloop.traces.export_client import iter_exported

    for found in iter_exported(client, limit=limit, source=source):
        payload = dump_line(found["payload"]).decode()[:-1]
        yield row_of_payload(found["id"], found["created_at"], payload)
