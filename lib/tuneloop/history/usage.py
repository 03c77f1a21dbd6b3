"""Bytes of an artifacts prefix, by run and by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tuneloop.storage.objects import StoredObject

SHARED = "(shared)"
"""Run id in place of that of objects that do not belong to one run."""
_STAGE = r"training_runs/[^/]+/[^/]+/"
_RULES = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (_STAGE + r"resume/", "checkpoints"),
        (_STAGE + r"profile/", "profiles"),
        (_STAGE + r"attempts/[^/]+/(?:model|adapter)/", "tuned models"),
        (_STAGE + r"attempts/(?:.*/)?(?:examples|validation)-", "examples"),
        (r"training_runs/(?:.*/)?(?:eval_[^/]*|samples)\.jsonl$", "traces"),
        (r"training_runs/(?:.*/)?[^/]*(?:report[^/]*|\.svg|\.html)$", "reports"),
        (_STAGE + r"attempts/", "other outputs"),
        (r"training_runs/", "records and logs"),
        (r"(?:stages/|run_index/|run_index_cache\.json$|eval_sets/)", "records and logs"),
        (r"sweeps/", "sweeps"),
        (r"rounds/", "rounds"),
        (r"datasets/", "datasets"),
        (r"models/", "stored models"),
        (r"tokens/", "tokens (cache)"),
        (r"eval_answers/", "base answers (cache)"),
        (r"jax_cache/", "compilations (cache)"),
        (r"compiled/", "compilations (cache)"),
    )
)
"""The first pattern that matches the beginning of a path decides the kind."""


@dataclass(frozen=True)
class Usage:
    """Bytes and objects below an artifacts prefix."""

    by_kind: dict[str, tuple[int, int]]
    """Kind -> (bytes, objects), the largest first."""
    by_run: dict[str, dict[str, int]]
    """Id of a run or sweep, or SHARED -> kind -> bytes; the largest run first."""

    @property
    def size_bytes(self) -> int:
        """Bytes of everything."""
        return sum(size for size, _ in self.by_kind.values())


def kind_of(name: str) -> str:
    """Return the kind of an object from its path."""
    return next((kind for pattern, kind in _RULES if pattern.match(name)), "other")


def run_of(name: str) -> str:
    """Return the run, sweep or rounds of an object; SHARED if it belongs to no single one."""
    parts = name.split("/")
    if parts[0] == "run_index" and len(parts) == 2:
        return parts[1].removesuffix(".json")
    return (
        parts[1] if parts[0] in ("training_runs", "sweeps", "rounds") and len(parts) > 2 else SHARED
    )


def measure(objects: Iterable[StoredObject]) -> Usage:
    """Add up the sizes of objects."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    by_run: dict[str, Counter[str]] = {}
    for each in objects:
        kind = kind_of(each.name)
        sizes[kind] += each.size_bytes
        counts[kind] += 1
        by_run.setdefault(run_of(each.name), Counter())[kind] += each.size_bytes
    runs = sorted(by_run.items(), key=lambda item: (-item[1].total(), item[0]))
    return Usage(
        {kind: (size, counts[kind]) for kind, size in sizes.most_common()},
        {run: dict(kinds.most_common()) for run, kinds in runs},
    )
