"""What people have chosen: models by aliases, baselines of the gate, patterns of triggers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from tuneloop.artifacts.aliases import AliasChange, parse_change
from tuneloop.artifacts.runs.triggers import Start, parse_start
from tuneloop.errors import DataError
from tuneloop.evaluation.gates.baselines import Baseline, parse_version
from tuneloop.storage import paths
from tuneloop.storage.objects import read_many

_CHANGE = re.compile(r"models/([^/]+)/history/\d{6,}\.json")
_VERSION = re.compile(r"baselines/([^/]+)/\d{6,}\.json")
_START = re.compile(r"triggers/([^/]+)/\d{6,}\.json")
T = TypeVar("T")


def read_aliases(
    artifacts: str, names: Iterable[str], problems: dict[str, str]
) -> dict[str, tuple[AliasChange, ...]]:
    """Read the changes of all aliases, the oldest first.

    Args:
        artifacts: URL of the artifacts prefix.
        names: paths of all objects below it.
        problems: receives the path of each file that cannot be read, with the reason.
    """
    return _read(artifacts, names, _CHANGE, parse_change, problems)


def read_baselines(
    artifacts: str, names: Iterable[str], problems: dict[str, str]
) -> dict[str, tuple[Baseline, ...]]:
    """Read the versions of all baselines, the oldest first; arguments as in `read_aliases`."""
    return _read(artifacts, names, _VERSION, parse_version, problems)


def read_starts(
    artifacts: str, names: Iterable[str], problems: dict[str, str]
) -> dict[str, tuple[Start, ...]]:
    """Read the starts of all triggers, the oldest first; arguments as in `read_aliases`."""
    return _read(artifacts, names, _START, parse_start, problems)


def _read(
    artifacts: str,
    names: Iterable[str],
    pattern: re.Pattern[str],
    parse: Callable[[bytes, str], T],
    problems: dict[str, str],
) -> dict[str, tuple[T, ...]]:
    """Read numbered objects, grouped by the name of their folder."""
    found: dict[str, tuple[T, ...]] = {}
    matching = sorted(name for name in names if pattern.fullmatch(name))
    urls = [paths.join(artifacts, name) for name in matching]
    for name, url, data in zip(matching, urls, read_many(urls), strict=True):
        key = name.split("/")[1]
        try:
            if data is not None:  # a missing file was deleted since the listing
                found[key] = (*found.get(key, ()), parse(data, url))
        except DataError as e:
            problems[name] = str(e).removeprefix(f"{url}: ")
    return found
