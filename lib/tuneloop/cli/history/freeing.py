"""Verbs that free storage: delete, du, gc."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from tuneloop.cli.history.looking import Artifacts
from tuneloop.cli.shared.option_groups import ClusterOptions, OneRun
from tuneloop.cli.shared.options import DEFAULT_ARTIFACTS, MOST, MOST_DAYS, Json, print_json
from tuneloop.errors import UsageError

GARBAGE_KINDS = (
    "attempts",
    "checkpoints",
    "tokens",
    "answers",
    "pointers",
    "datasets",
    "models",
    "sweeps",
    "rounds",
)


def delete(
    run: OneRun,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Delete the run although other runs, models or aliases refer to it. The files that"
            " runs and models name stay.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run. Run again after an interruption."""
    from tuneloop.history.deletion import check_deletion, delete_run, plan_deletion
    from tuneloop.history.inventory import read_inventory
    from tuneloop.history.units import size
    from tuneloop.storage.objects import storage_time

    inventory = read_inventory(run.artifacts_url)
    deletion = plan_deletion(inventory, run.run_id)
    now = datetime.now(UTC)
    storage_now = storage_time(run.artifacts_url) or now
    check_deletion(inventory, deletion, force=force, now=now, storage_now=storage_now)
    for reference in deletion.references:
        typer.echo(f"referred to: {reference.sentence}", err=True)
    said = f"run {run.run_id}: {len(deletion.deleted)} objects, {size(deletion.size_bytes)}"
    if deletion.kept:
        said += f"; {len(deletion.kept)} objects, {size(deletion.kept_bytes)}, stay for the others"
    if not yes:
        typer.echo(said, err=True)
        if not _confirmed("Delete it?"):
            raise UsageError(f"run {run.run_id}: not deleted; answer y, or add --yes")
    delete_run(inventory, deletion)
    if as_json:
        print_json(
            {
                "run_id": run.run_id,
                "deleted_objects": len(deletion.deleted),
                "deleted_bytes": deletion.size_bytes,
                "kept_objects": len(deletion.kept),
                "kept_bytes": deletion.kept_bytes,
            }
        )
    else:
        typer.echo(f"deleted {said}")


def _confirmed(question: str) -> bool:
    if sys.stdin is None:  # closed by the shell
        return False
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # nobody can answer, such as in CI
        return False


def du(
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MOST, help="Maximum number of runs in the table.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show the bytes that the artifacts take, by kind and by run."""
    from tuneloop.cli.history import tables
    from tuneloop.history.usage import measure
    from tuneloop.storage import paths
    from tuneloop.storage.objects import list_objects

    url = paths.absolute(artifacts)
    usage = measure(list_objects(url))
    if as_json:
        kinds = {kind: {"bytes": s, "objects": n} for kind, (s, n) in usage.by_kind.items()}
        value = {"bytes": usage.size_bytes, "kinds": kinds, "runs": usage.by_run}
        print_json({"artifacts": url, **value})
    else:
        tables.print_usage(usage, limit)


def gc(
    cluster: ClusterOptions,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    days: Annotated[
        float,
        typer.Option(
            "--days",
            min=0,
            max=MOST_DAYS,
            help="Minimum days without a change; an hour is the least.",
        ),
    ] = 14,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help=f"What to delete, repeatable: {', '.join(GARBAGE_KINDS)}. The default is all but"
            " datasets, models, sweeps and rounds, which nothing makes again.",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            help="Namespace of a cluster, in which the ConfigMaps and ended Jobs of runs without a"
            " folder are collected too; no cluster is asked without it.",
        ),
    ] = None,
    delete_it: Annotated[
        bool,
        typer.Option("--delete/--dry-run", help="Delete, or only show what would be deleted."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show or delete what no run needs: old attempts, checkpoints of finished runs, caches."""
    from tuneloop.cli.history import tables
    from tuneloop.history.garbage import KINDS, SAFE_KINDS, find_garbage, run_gc
    from tuneloop.history.inventory import read_inventory
    from tuneloop.storage import paths

    kinds = list(dict.fromkeys(kind or SAFE_KINDS))
    for each in kinds:
        if each not in KINDS:
            raise UsageError(f"--kind: found {each!r}, expected one of {', '.join(KINDS)}")
    url, now = paths.absolute(artifacts), datetime.now(UTC)
    if delete_it:
        found, others = run_gc(url, now=now, days=days, kinds=kinds), []
    else:
        everything = find_garbage(read_inventory(url), now=now, days=days, kinds=KINDS)
        found = [each for each in everything if each.kind in kinds]
        others = [each for each in everything if each.kind not in kinds]
    orphans = _orphans(cluster, namespace, url, days, delete_it=delete_it) if namespace else []
    if as_json:
        value = {"garbage": [each.as_json() for each in found], "cluster": orphans}
        print_json({"artifacts": url, "deleted": delete_it, **value})
    else:
        tables.print_garbage(found, others, deleted=delete_it)
        for orphan in orphans:
            typer.echo(f"{'deleted' if delete_it else 'would delete'} {orphan}")


def _orphans(
    options: ClusterOptions, namespace: str, artifacts: str, days: float, *, delete_it: bool
) -> list[str]:
    """Return kind and name of the objects of runs without a folder, deleted if asked to."""
    from tuneloop.artifacts import layout
    from tuneloop.history.garbage import MIN_AGE
    from tuneloop.k8s.orphans import WORKLOADS, delete_orphans, find_orphans
    from tuneloop.storage import files

    client = options.connect(namespace)
    orphans = find_orphans(
        client,
        artifacts=artifacts,
        runs=[
            *files.list_folders(layout.runs_prefix(artifacts)),
            *files.list_folders(layout.sweeps_prefix(artifacts)),  # their submitters
        ],
        days=max(days, MIN_AGE.total_seconds() / 86_400),
        kinds=[kind for kind in WORKLOADS if client.serves(kind)],
    )
    return [each.path for each in (delete_orphans(client, orphans) if delete_it else orphans)]
