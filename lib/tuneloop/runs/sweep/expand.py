"""Expand a sweep into its members: which fields each one changes, and its label. Pure."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.errors import SpecError
from tuneloop.specs.sweep import SweepSpec
from tuneloop.validation import shorten

LABEL_VALUE_CHARACTERS = 40


@dataclass(frozen=True)
class Variant:
    """One combination of values."""

    number: int
    """Number of the member, from 1."""
    values: Mapping[str, Any]
    """Path of a field -> its value."""
    label: str
    """Text for tables, such as `learning_rate=0.01 rank=8`."""


def expand(sweep: SweepSpec, place: str) -> list[Variant]:
    """Return the members of a sweep, in the order of the file; the last field varies fastest.

    Args:
        sweep: the sweep.
        place: path of the file, for errors.

    Raises:
        SpecError: there are too many members, or two have the same values.
    """
    count = _count(sweep)
    if count > sweep.max_members:
        raise SpecError(
            f"{place}: sweep has {count} members, expected at most sweep.max_members"
            f" ({sweep.max_members}); remove values or raise sweep.max_members"
        )
    combinations = list(_combinations(sweep))
    names = short_names([path for values in combinations for path in values])
    seen: dict[str, int] = {}
    variants = []
    for number, values in enumerate(combinations, start=1):
        _refuse_overlap(values, place)
        key = json.dumps(values, sort_keys=True, default=str)
        label = " ".join(f"{names[path]}={_text(value)}" for path, value in values.items())
        if key in seen:
            raise SpecError(
                f"{place}: members {seen[key]} and {number} of the sweep are the same"
                f" ({label[:80]}), expected different values; remove one"
            )
        seen[key] = number
        variants.append(Variant(number, values, label or "unchanged"))
    return variants


def apply(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping of a run spec with the values of a member; the base is not changed.

    A path below a missing group creates it; the spec's own validation then judges its name.

    Raises:
        SpecError: a path goes through a value that is no group of fields.
    """
    changed = copy.deepcopy(dict(base))
    for path, value in values.items():
        *groups, last = path.split(".")
        inner: Any = changed
        for at, part in enumerate(groups, start=1):
            if inner.get(part) is None:
                inner[part] = {}
            inner = inner[part]
            if not isinstance(inner, dict):
                group = ".".join(groups[:at])
                raise SpecError(
                    f"{path} is an unknown path, because {group} is {shorten(inner)} and no group"
                    " of fields; correct the path"
                )
        inner[last] = copy.deepcopy(value)
    return changed


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each path that no other path has, such as `rank`."""
    unique = sorted(set(paths))
    parts = {path: path.split(".") for path in unique}
    names = {}
    for path in unique:
        for length in range(1, len(parts[path]) + 1):
            end = parts[path][-length:]
            if sum(parts[other][-length:] == end for other in unique) == 1:
                break
        names[path] = ".".join(end)
    return names


def _count(sweep: SweepSpec) -> int:
    if sweep.members is not None:
        return len(sweep.members)
    return math.prod(len(values) for values in (sweep.grid or {}).values())


def _combinations(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    if sweep.members is not None:
        yield from sweep.members
        return
    grid = sweep.grid or {}
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _refuse_overlap(values: Mapping[str, Any], place: str) -> None:
    """Refuse two paths of which one is inside the other: their order would decide."""
    for outer, inner in itertools.permutations(values, 2):
        if inner.startswith(f"{outer}."):
            raise SpecError(
                f"{place}: sweep varies {outer} and also {inner}, which is inside it, expected one"
                " of them; remove one"
            )


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    if len(text) > LABEL_VALUE_CHARACTERS:
        text = f"{text[: LABEL_VALUE_CHARACTERS - 1]}…"
    return text
