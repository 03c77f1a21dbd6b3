"""The verb that compares every file of a run with what is recorded of it."""

from __future__ import annotations

import typer

from tuneloop.cli.shared.option_groups import OneRun
from tuneloop.cli.shared.options import Json, print_json
from tuneloop.errors import DataError


def verify(run: OneRun, as_json: Json = False) -> None:
    """Read all files of a run, from the report back to its dataset. Exit 12 if one is damaged.

    Files are compared with the sizes and digests in manifests and records, and JSON files with
    their seals. Nothing is written.
    """
    from tuneloop.history.verification.run import verify_run

    found = verify_run(run.artifacts_url, run.run_id)
    if as_json:
        print_json(found.as_json())
    for problem in found.problems:
        typer.echo(f"error: {problem.text}", err=True)
    if found.problems:
        files = len({problem.path for problem in found.problems})
        raise DataError(
            f"{run.run_id}: {files} damaged files, expected none; restore them, or delete what is"
            " named above and run the spec again"
        )
    if not as_json:
        left = f"; {len(found.unchecked)} others belong to no result" if found.unchecked else ""
        typer.echo(
            f"{run.run_id}: {found.checked} files with {found.size_bytes:,} bytes are as"
            f" recorded{left}"
        )
