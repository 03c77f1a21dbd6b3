"""Aliases of models, such as `production`: names that move from one model to another.

The history of an alias is `models/<alias>/history/`, with one create-only object for each change,
numbered from 1. The newest change counts. Of two processes that move an alias at the same time,
exactly one creates the next number.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts.layout import alias_prefix
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.objects import read_many
from tuneloop.storage.sealed import Sealed, sealed
from tuneloop.validation import first_error

_FILE = re.compile(r"(?!0+\.)(\d{6,})\.json")


class AliasedModel(BaseModel):
    """The model that an alias names."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    kind: Literal["run", "stored"]
    """`run`: the tuned model of a run; `stored`: a model of `tuneloop models add`."""
    name: str
    """Id of the run, or name of the stored model."""
    digest: str
    """Digest of the model, which later plans and answers are compared with."""


class GateOfChange(BaseModel):
    """The result of the gate that a promoted run was judged by."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    run_id: str
    passed: bool
    problems: tuple[str, ...]
    """One clause for each condition that failed; empty if the run passed."""
    conditions: dict[str, Any]
    """Options of the gate, such as `min_gain`, with their values."""
    digest: str
    """sha256 of the result as canonical JSON, with the keys that `tuneloop gate --json` prints."""


class AliasChange(Sealed):
    """One change of an alias."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    alias: str
    number: int
    """Number of the change, from 1."""
    action: Literal["promote", "rollback"]
    model: AliasedModel
    """Model that the alias names from this change on."""
    previous: AliasedModel | None
    """Model that the alias named before; null for the first change."""
    restores: int | None = None
    """Number of the change that a rollback repeats; null for a promotion."""
    gate: GateOfChange | None
    """Gate of the promoted run; null if none was asked, which needs `--force`."""
    forced: bool = False
    """Whether the model was promoted although its gate failed or is missing."""
    who: str
    """Person or CI account that changed the alias."""
    why: str
    """Reason in the words of that person; may be empty unless the promotion was forced."""
    at: str
    """Time of the change on the clock of the machine that made it, ISO 8601 in UTC."""
    ci_run: str | None = None
    """URL of the CI run that changed the alias; null outside CI."""

    @property
    def origin(self) -> int:
        """Number of the promotion that this change makes current."""
        return self.restores or self.number


def change_url(artifacts: str, alias: str, number: int) -> str:
    """Return the URL of one change of an alias."""
    return paths.join(alias_prefix(artifacts, alias), f"{number:06d}.json")


def publish_change(change: AliasChange, artifacts: str) -> bool:
    """Create the object of a change.

    Returns:
        False if another process has created this number with other content.
    """
    data = json.dumps(sealed(change.model_dump(mode="json")), indent=1).encode() + b"\n"
    return files.publish(change_url(artifacts, change.alias, change.number), data)


def parse_change(data: bytes, url: str) -> AliasChange:
    """Parse one change of an alias.

    Raises:
        DataError: it is not a change, or not the one that its name states.
    """
    try:
        found = AliasChange.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{url}: not a change of an alias ({first_error(e)}); restore the object, because"
            " without it nobody knows which model the alias names"
        ) from e
    if not url.endswith(f"models/{found.alias}/history/{found.number:06d}.json"):
        raise DataError(
            f"{url}: holds change {found.number} of alias {found.alias}, expected the one of its"
            " name; restore the object"
        )
    return found


def read_history(artifacts: str, alias: str) -> list[AliasChange]:
    """Read all changes of an alias, the oldest first; empty if there is no such alias.

    Raises:
        DataError: a change is broken or missing.
    """
    numbers = _numbers(artifacts, alias)
    _check_complete(artifacts, alias, numbers)
    urls = [change_url(artifacts, alias, number) for number in numbers]
    found = zip(urls, read_many(urls), strict=True)
    return [parse_change(data, url) for url, data in found if data is not None]


def read_current(artifacts: str, alias: str) -> AliasChange | None:
    """Read the newest change of an alias; None if there is no such alias.

    Raises:
        DataError: the change is broken, or an earlier one is missing.
    """
    numbers = _numbers(artifacts, alias)
    if not numbers:
        return None
    _check_complete(artifacts, alias, numbers)
    url = change_url(artifacts, alias, numbers[-1])
    return parse_change(files.read(url), url)


def list_aliases(artifacts: str) -> tuple[list[AliasChange], list[str]]:
    """Read the newest change of every alias.

    Returns:
        The changes sorted by alias, and a sentence for each alias with a broken history.
    """
    found, problems = [], []
    for name in files.list_folders(paths.join(artifacts, "models")):
        try:
            current = read_current(artifacts, name)
        except DataError as e:
            problems.append(str(e))
        else:
            found += [current] if current is not None else []
    return found, problems


def _numbers(artifacts: str, alias: str) -> list[int]:
    """Return the numbers of the changes, sorted. An unfinished local write has another name."""
    names = files.list_names(alias_prefix(artifacts, alias))
    return sorted(int(found[1]) for name in names if (found := _FILE.fullmatch(name)))


def _check_complete(artifacts: str, alias: str, numbers: list[int]) -> None:
    missing = set(range(1, len(numbers) + 1)) - set(numbers)
    if missing:
        raise DataError(
            f"{change_url(artifacts, alias, min(missing))}: missing, expected the changes 1 to"
            f" {numbers[-1]} of alias {alias}; restore the object"
        )
