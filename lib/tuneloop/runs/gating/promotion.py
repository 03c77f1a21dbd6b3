"""Promote a model: let an alias, such as `production`, name it; and roll an alias back.

Every change is one create-only object, so the history of an alias is complete, and of two people
who promote at the same time one is told about the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from tuneloop import jsonl
from tuneloop.artifacts import aliases, layout
from tuneloop.artifacts.aliases import AliasChange, AliasedModel, GateOfChange
from tuneloop.errors import DataError, GateFailed, InputMissing, UsageError
from tuneloop.models.add import check_name
from tuneloop.runs.gating.judge import GateResult
from tuneloop.runs.planning.base_model import NamedModel, find_aliased_model
from tuneloop.storage import files, paths
from tuneloop.validation import shorten

MAX_WHY = 2000
"""Maximum length of a reason, in characters."""


@dataclass(frozen=True)
class Author:
    """Who changes an alias, when and why."""

    who: str
    why: str
    now: datetime
    ci_run: str | None = None
    """URL of the CI run; None outside CI."""

    def __post_init__(self) -> None:
        """Refuse texts that cannot be stored, or that nobody would read."""
        for name, text in (("--who", self.who), ("--why", self.why)):
            try:
                text.encode()
            except UnicodeEncodeError as e:
                raise UsageError(f"{name} {shorten(text)}: is not valid text; correct it") from e
            if len(text) > MAX_WHY:
                raise UsageError(
                    f"{name}: has {len(text)} characters, expected at most {MAX_WHY}; shorten it"
                )
        if not self.who.strip():
            raise UsageError("--who: is empty, expected the name of a person or CI account")


@dataclass(frozen=True)
class Moved:
    """The result of a promotion or a rollback."""

    change: AliasChange
    is_new: bool
    """False if the alias named this model already, so nothing was written."""

    @property
    def sentence(self) -> str:
        """The result as one sentence."""
        change = self.change
        if not self.is_new:
            return f"{change.alias}: names {change.model.name} already (change {change.number})"
        before = f", before {change.previous.name}" if change.previous else ""
        return f"{change.alias}: {change.model.name} (change {change.number}{before})"


def gate_of(result: GateResult, conditions: dict[str, object], named: NamedModel) -> GateOfChange:
    """Convert the result of a gate to what an alias keeps of it.

    Args:
        result: the result.
        conditions: options of the gate with their values.
        named: the model that is to be promoted.

    Raises:
        DataError: the report of the run is about another model.
    """
    digest = named.model.manifest.digest
    if result.digest not in (None, digest):
        raise DataError(
            f"run {result.run_id}: its report is about a model with the digest"
            f" {str(result.digest)[:12]}…, but its tuned model has {digest[:12]}…; evaluate the run"
            " again"
        )
    shown = result.as_json()
    return GateOfChange(
        run_id=result.run_id,
        passed=result.passed,
        problems=result.problems,
        conditions=conditions,
        digest=hashlib.sha256(jsonl.dump_line(shown)).hexdigest(),
    )


def promote(
    artifacts: str,
    alias: str,
    named: NamedModel,
    author: Author,
    *,
    gate: GateOfChange | None = None,
    force: bool = False,
) -> Moved:
    """Let an alias name a model.

    Args:
        artifacts: URL of the artifacts prefix.
        alias: the alias; it is made if there is none of this name.
        named: the model. One that is named by another alias brings the gate of that promotion.
        author: who promotes it, when and why.
        gate: result of the run's gate; None if none was asked.
        force: promote the model although its gate failed or is missing; needs a reason.

    Raises:
        UsageError: the name of the alias is taken or not valid, the reason for `force` is missing,
            or another process has changed the alias at the same time.
        GateFailed: the gate failed or is missing.
        DataError: a change of the alias is broken.
    """
    _check_alias(artifacts, alias)
    if gate is None and named.change is not None:
        gate = named.change.gate
    _check_gate(named, gate, author, force=force)
    model = AliasedModel(kind=named.kind, name=named.name, digest=named.model.manifest.digest)
    current = aliases.read_current(artifacts, alias)
    if current is not None and current.model.digest == model.digest:
        return Moved(current, is_new=False)
    is_forced = gate is None or not gate.passed
    change = _change(current, alias, model, author, gate=gate, forced=is_forced)
    return _publish(change, artifacts)


def rollback(artifacts: str, alias: str, author: Author, *, number: int | None = None) -> Moved:
    """Let an alias name the model that it named before its newest promotion.

    A second rollback goes back one promotion further. The gate is not asked again.

    Args:
        artifacts: URL of the artifacts prefix.
        alias: the alias.
        author: who rolls it back, when and why.
        number: change to go back to; None is the promotion before the current one.

    Raises:
        InputMissing: there is no such alias, or the earlier model was deleted.
        UsageError: there is no such change, or another process has changed the alias.
        DataError: a change of the alias is broken.
    """
    history = load_history(artifacts, alias)
    current = history[-1]
    earlier = _earlier(history) if number is None else _numbered(history, number)
    if earlier.model.digest == current.model.digest:
        return Moved(current, is_new=False)
    find_aliased_model(earlier, artifacts)
    change = _change(
        current,
        alias,
        earlier.model,
        author,
        gate=earlier.gate,
        forced=earlier.forced,
        restores=earlier.origin,
    )
    return _publish(change, artifacts)


def load_history(artifacts: str, alias: str) -> list[AliasChange]:
    """Read all changes of an alias, the oldest first.

    Raises:
        InputMissing: there is no such alias.
        DataError: a change is broken or missing.
    """
    check_name(alias)
    history = aliases.read_history(artifacts, alias)
    if not history:
        raise InputMissing(
            f"{layout.alias_prefix(artifacts, alias)}: missing, expected the history of alias"
            f" {alias}; make one with `tuneloop promote RUN_ID --to {alias}`"
        )
    return history


def _check_alias(artifacts: str, alias: str) -> None:
    """Refuse a name that means something else where the name of a model is accepted."""
    check_name(alias)
    if files.exists(paths.join(artifacts, "models", alias, "manifest.json")):
        raise UsageError(
            f"--to {alias}: is the name of a stored model, expected that of an alias; choose"
            " another name"
        )
    if files.exists(layout.run_manifest_url(artifacts, alias)):
        raise UsageError(
            f"--to {alias}: is the id of a run, expected the name of an alias; choose another name"
        )


def _check_gate(
    named: NamedModel, gate: GateOfChange | None, author: Author, *, force: bool
) -> None:
    if force and not author.why.strip():
        raise UsageError("--force: expected --why with it, so that others can read the reason")
    if gate is not None and gate.passed and gate.run_id != named.name:
        raise DataError(
            f"the gate judged run {gate.run_id}, expected {named.name}; promote it by its run id"
        )
    if force or (gate is not None and gate.passed):
        return
    found = f"its gate fails ({'; '.join(gate.problems)})" if gate else "no gate was asked"
    fix = "change the data or the spec" if gate else "add conditions, such as --min-gain 0"
    if named.kind == "stored":
        found, fix = "is a stored model, which has no gate", "promote a run that was evaluated"
    raise GateFailed(
        f"{named.name}: {found}, expected a gate that passes; {fix}, or promote it all the same"
        " with --force --why TEXT"
    )


def _earlier(history: list[AliasChange]) -> AliasChange:
    """Return the change before the promotion that is current."""
    origin = history[-1].origin
    if origin == 1:
        raise UsageError(
            f"alias {history[0].alias}: named no model before {history[0].model.name}, expected an"
            " earlier promotion; promote another model"
        )
    return history[origin - 2]


def _numbered(history: list[AliasChange], number: int) -> AliasChange:
    if not 1 <= number <= len(history):
        raise UsageError(
            f"--change {number}: alias {history[0].alias} has the changes 1 to {len(history)};"
            " choose one of them"
        )
    return history[number - 1]


def _change(
    current: AliasChange | None,
    alias: str,
    model: AliasedModel,
    author: Author,
    *,
    gate: GateOfChange | None,
    forced: bool,
    restores: int | None = None,
) -> AliasChange:
    return AliasChange(
        alias=alias,
        number=current.number + 1 if current else 1,
        action="promote" if restores is None else "rollback",
        model=model,
        previous=current.model if current else None,
        restores=restores,
        gate=gate,
        forced=forced,
        who=author.who,
        why=author.why,
        at=author.now.isoformat(timespec="seconds"),
        ci_run=author.ci_run,
    )


def _publish(change: AliasChange, artifacts: str) -> Moved:
    if aliases.publish_change(change, artifacts):
        return Moved(change, is_new=True)
    url = aliases.change_url(artifacts, change.alias, change.number)
    winner = aliases.parse_change(files.read(url), url)
    if winner.model.digest == change.model.digest:
        return Moved(winner, is_new=False)
    raise UsageError(
        f"alias {change.alias}: {winner.who} has let it name {winner.model.name} at the same time"
        f" (change {winner.number}), expected {change.previous.name if change.previous else 'none'}"
        f" as before; look at `tuneloop models show {change.alias}`, then decide again"
    )
