"""The verbs `promote` and `rollback`, which move an alias such as `production`."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.cli.gates.gate import GateOptions
from tuneloop.cli.shared import github
from tuneloop.cli.shared.option_groups import KnownModel, expand_groups
from tuneloop.cli.shared.options import DEFAULT_ARTIFACTS, MOST, Json, artifacts_option, print_json

if TYPE_CHECKING:
    from tuneloop.artifacts.aliases import GateOfChange
    from tuneloop.runs.gating.promotion import Author, Moved
    from tuneloop.runs.planning.base_model import NamedModel


@dataclass(frozen=True)
class AuthorOptions:
    """Who changes an alias, and why."""

    why: Annotated[str, typer.Option("--why", help="Reason, which the history shows.")] = ""
    who: Annotated[
        str | None,
        typer.Option(
            "--who",
            help="Name that the history shows; default: the account of GitHub Actions or GitLab"
            " CI, else that of the operating system.",
        ),
    ] = None

    def author(self) -> Author:
        """Return the author of a change that is made now."""
        from tuneloop.runs.gating.promotion import Author

        who = _account() if self.who is None else self.who
        return Author(who, self.why, datetime.now(UTC), _ci_run())


def _account() -> str:
    """Return the name of the account that runs this process."""
    found = github.actor() or os.environ.get("GITLAB_USER_LOGIN")
    if found:
        return found
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user that /etc/passwd does not have
        return f"uid {os.getuid()}"


def _ci_run() -> str | None:
    """Return the URL of the CI run of this process; None outside CI."""
    return github.run_url() or os.environ.get("CI_JOB_URL") or None


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (promote, rollback):
        app.command()(expand_groups(verb))


def promote(
    model: KnownModel,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="ALIAS", help="Alias that names the model from now on: production."
        ),
    ],
    limits: GateOptions,
    author: AuthorOptions,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote although the gate fails or is missing; needs --why."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an alias, such as production, name a model that passes its gate. Exit 13 if it fails.

    The options of the gate are those of `tuneloop gate`. A model that another alias names, such as
    candidate, brings the gate of its promotion, so it needs none.
    """
    from tuneloop.runs.gating import promotion

    named = model.find_named()
    gate = _judge(named, limits, model.artifacts_url, force=force) if limits.is_given else None
    moved = promotion.promote(
        model.artifacts_url, to, named, author.author(), gate=gate, force=force
    )
    _print(moved, as_json=as_json)


def _judge(
    named: NamedModel, limits: GateOptions, artifacts: str, *, force: bool
) -> GateOfChange | None:
    """Judge the run of a model; None if there is no result and the promotion is forced."""
    from tuneloop.errors import InputMissing, UsageError
    from tuneloop.runs.gating.promotion import gate_of
    from tuneloop.runs.outcome import load_outcome

    if named.kind != "run":
        first = next(iter(limits.conditions)).replace("_", "-")
        raise UsageError(
            f"--{first}: {named.name} is a stored model, expected a run, which has an evaluation;"
            " leave out the conditions and add --force --why TEXT"
        )
    try:
        result = limits.judge(artifacts, load_outcome(artifacts, named.name))
    except InputMissing as e:
        if not force:
            raise
        typer.echo(f"warning: {e}", err=True)
        return None
    return gate_of(result, limits.conditions, named)


def rollback(
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")],
    author: AuthorOptions,
    change: Annotated[
        int | None,
        typer.Option(
            "--change",
            min=1,
            max=MOST,
            help="Number of the change to go back to; default: the one before the current"
            " promotion. `models show ALIAS` lists them.",
        ),
    ] = None,
    artifacts: Annotated[
        str, artifacts_option("Artifacts URL that holds the alias.")
    ] = DEFAULT_ARTIFACTS,
    as_json: Json = False,
) -> None:
    """Let an alias name its earlier model again. A second rollback goes back one further."""
    from tuneloop.runs.gating import promotion
    from tuneloop.storage import paths

    url = paths.absolute(artifacts)
    _print(promotion.rollback(url, alias, author.author(), number=change), as_json=as_json)


def _print(moved: Moved, *, as_json: bool) -> None:
    if as_json:
        print_json({**moved.change.model_dump(mode="json"), "changed": moved.is_new})
        return
    typer.echo(moved.sentence)
    if moved.is_new and moved.change.forced:
        typer.echo("warning: promoted although its gate failed or is missing", err=True)
