"""Apply the rules of a selection to candidates: a pure function of rows, spec and seed.

The store calls it with rows from its database, and rounds with rows from files. Memory depends on
the number of candidates, but not on their texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuneloop.datasets.schema import Strategy
from tuneloop.datasets.selection.account import SelectionAccount, Tally
from tuneloop.datasets.selection.candidates import (
    NO_VALUE,
    Candidate,
    Columns,
    compile_where,
    read_columns,
)
from tuneloop.datasets.selection.clusters import Integers, find_clusters, first_of_groups
from tuneloop.datasets.selection.spec import SelectionSpec


@dataclass(frozen=True)
class SelectionResult:
    """The selected traces, and what became of the others."""

    ids: list[str]
    """Ids of the selected traces, in order."""
    account: SelectionAccount


class Positions(NamedTuple):
    """The selected traces as positions among the candidates, from 0, in order."""

    positions: Integers
    account: SelectionAccount


def select_rows(
    rows: Iterable[Candidate],
    spec: SelectionSpec,
    seed: int,
    *,
    strategy: Strategy = "latest",
    limit: int | None = None,
) -> SelectionResult:
    """Select traces.

    Args:
        rows: the candidates. Their ids must be unique.
        spec: the rules.
        seed: seed of the order of `random`; ignored by `latest`.
        strategy: order of the selection: `latest` keeps the order of the rows, which the store
            gives newest first; `random` orders by a digest of seed and id.
        limit: maximum number of selected traces; the first ones in the order are kept.
    """
    ids: list[str] = []

    def noted() -> Iterator[Candidate]:
        for row in rows:
            ids.append(row.id)
            yield row

    found = select_positions(noted(), spec, seed, strategy=strategy, limit=limit)
    return SelectionResult([ids[position] for position in found.positions], found.account)


def select_positions(
    rows: Iterable[Candidate],
    spec: SelectionSpec,
    seed: int,
    *,
    strategy: Strategy = "latest",
    limit: int | None = None,
) -> Positions:
    """Select traces as `select_rows`, without keeping ids in memory."""
    columns = read_columns(rows, spec, seed)
    tally = Tally(columns.considered)
    left = columns.considered
    conditions = zip(compile_where(spec), columns.failed, columns.missing, strict=True)
    for (field, _), failed, missing in conditions:
        left -= failed
        tally.add(f"where {field}", left, missing=missing)
    chosen = np.arange(len(columns.positions))
    if strategy == "random":
        chosen = np.argsort(columns.ranks, kind="stable")
    for name, rule in (*RULES.items(), *_caps(spec)):
        kept = rule(columns, chosen, spec)
        if kept is not None:
            chosen = chosen[kept.mask]
            tally.add(name, len(chosen), missing=kept.missing, **kept.facts)
    if len(spec.datasets) > 1:
        chosen = chosen[_mix(columns.datasets[chosen], spec, limit)]
        tally.add("mix", len(chosen))
    if limit is not None:
        chosen = chosen[:limit]
        tally.add("limit", len(chosen))
    return Positions(columns.positions[chosen], tally.account())


class Kept(NamedTuple):
    """What a rule keeps."""

    mask: npt.NDArray[np.bool_]
    """Whether each row is kept, shape (rows,), in their order."""
    missing: int = 0
    """Removed rows that do not have the value."""
    facts: Mapping[str, int] = MappingProxyType({})


Rule = Callable[[Columns, Integers, SelectionSpec], Kept | None]
"""(columns, numbers of the rows that are left, in order, spec) -> what the rule keeps, or None if
the spec does not have the rule."""


def _prompts(columns: Columns) -> Integers:
    """Number the prompts of all candidates, shape (considered,)."""
    high, low = columns.prompts.T
    order = np.lexsort((low, high))
    changes = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.concatenate(([0], np.cumsum(changes))) if len(order) else 0
    return numbers


def _pass_rate(columns: Columns, chosen: Integers, spec: SelectionSpec) -> Kept | None:
    rule = spec.pass_rate
    if rule is None:
        return None
    prompts = _prompts(columns)
    judged = np.bincount(prompts[columns.passes >= 0], minlength=len(prompts))
    passed = np.bincount(prompts[columns.passes == 1], minlength=len(prompts))
    own = prompts[columns.positions[chosen]]
    count = judged[own]
    rate = passed[own] / np.maximum(count, 1)
    low, high = (0.0 if rule.min is None else rule.min), (1.0 if rule.max is None else rule.max)
    mask = (count > 0) & (rate >= low) & (rate <= high)
    return Kept(mask, missing=int(np.sum(count == 0)))


def _near_duplicates(columns: Columns, chosen: Integers, spec: SelectionSpec) -> Kept | None:
    rule = spec.near_duplicates
    if rule is None:
        return None
    if not len(chosen):
        return Kept(np.zeros(0, np.bool_))
    clusters = find_clusters(columns.bands[chosen])
    preference = columns.scores[chosen] if spec.best_of is not None else None
    sizes = np.bincount(clusters)
    return Kept(
        first_of_groups(clusters, rule.keep, preference),
        facts={"clusters": int(np.sum(sizes > 0)), "largest_cluster": int(sizes.max())},
    )


def _best_of(columns: Columns, chosen: Integers, spec: SelectionSpec) -> Kept | None:
    rule = spec.best_of
    if rule is None:
        return None
    own = _prompts(columns)[columns.positions[chosen]]
    scores = columns.scores[chosen]
    mask = first_of_groups(own, rule.count, scores)
    facts = {"prompts": len(np.unique(own))}
    return Kept(mask, facts=facts | _valueless(int(np.sum(np.isneginf(scores)))))


def _valueless(count: int) -> dict[str, int]:
    """Return the fact that rows without a value were compared, so that a wrong name is seen."""
    return {"without_value": count} if count else {}


RULES: dict[str, Rule] = {
    "pass_rate": _pass_rate,
    "near_duplicates": _near_duplicates,
    "best_of": _best_of,
}
"""The rules by their names in the account, in the order in which they are applied."""


def _caps(spec: SelectionSpec) -> Iterator[tuple[str, Rule]]:
    return ((f"cap {field}", _cap(field)) for field in sorted(spec.caps))


def _cap(field: str) -> Rule:
    def rule(columns: Columns, chosen: Integers, spec: SelectionSpec) -> Kept | None:
        groups = columns.groups[field][chosen]
        facts = {"values": len(np.unique(groups[groups != NO_VALUE]))}
        facts |= _valueless(int(np.sum(groups == NO_VALUE)))
        return Kept(first_of_groups(groups, spec.caps[field]), facts=facts)

    return rule


def _mix(datasets: Integers, spec: SelectionSpec, limit: int | None) -> npt.NDArray[np.bool_]:
    """Keep the first rows of each dataset so that their numbers are in proportion to the weights.

    The total is the largest one that every dataset has enough rows for, and at most the limit.
    """
    counts = np.bincount(datasets, minlength=len(spec.datasets))
    weights = [Fraction(spec.datasets[key]) for key in sorted(spec.datasets)]
    whole = sum(weights)
    enough = (int(count) * whole // weight for count, weight in zip(counts, weights, strict=True))
    total = min(int(np.sum(counts)) if limit is None else limit, *map(int, enough))
    exact = [total * weight / whole for weight in weights]
    quotas = [math.floor(one) for one in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: (quotas[n] - exact[n], n))
    for number in by_remainder[: total - sum(quotas)]:
        quotas[number] += 1
    mask = np.zeros(len(datasets), np.bool_)
    for number, quota in enumerate(quotas):
        mask[np.flatnonzero(datasets == number)[:quota]] = True
    return mask
