"""Read the indexes of all runs in an object store with a few requests.

One listing returns a stamp of each index. The indexes of finished runs are also in one object, the
cache, each next to the stamp that it had. An entry counts only if the listing shows the same stamp.
A cache that is stale, broken or written by two readers at once therefore costs requests, and no
list is wrong because of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_index import RunIndex, check_run_index, parse_run_index
from tuneloop.errors import TuneloopError
from tuneloop.storage import files, paths
from tuneloop.storage.objects import list_stamps, read_many
from tuneloop.storage.sealed import Sealed, sealed


class CachedIndex(BaseModel):
    """The index of a finished run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stamp: str
    """Stamp of the index when it was read."""
    index: RunIndex


class IndexCache(Sealed):
    """The content of the cache."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal["1"] = "1"
    runs: dict[str, CachedIndex]
    """Run id -> its index."""


def read_indexes(artifacts: str, run_ids: Sequence[str]) -> list[RunIndex | None]:
    """Read the indexes of runs, in their order; None for one that is missing or broken.

    Args:
        artifacts: URL of the artifacts prefix.
        run_ids: ids of the runs.
    """
    if files.local_path(artifacts) is not None:  # a file takes no longer than its entry in a cache
        stamps = dict.fromkeys(run_ids, "")
        known: dict[str, CachedIndex] = {}
    else:
        stamps = _stamps(artifacts)
        known = _read_caches(artifacts, stamps)
    unknown = [run_id for run_id in run_ids if run_id in stamps and run_id not in known]
    data = read_many([layout.run_index_url(artifacts, run_id) for run_id in unknown])
    found = {run_id: each.index for run_id, each in known.items()}
    for run_id, text in zip(unknown, data, strict=True):
        if (index := parse_run_index(text, run_id)) is not None:
            found[run_id] = index
    # Only the index of a finished run is final, also if it was replaced after the listing.
    new = {
        run_id: CachedIndex(stamp=stamps[run_id], index=found[run_id])
        for run_id in unknown
        if stamps[run_id] and run_id in found and found[run_id].is_complete
    }
    if new:
        _write_cache(artifacts, IndexCache(runs=dict(sorted((known | new).items()))))
    return [found.get(run_id) for run_id in run_ids]


def _stamps(artifacts: str) -> dict[str, str]:
    listed = list_stamps(layout.run_indexes_prefix(artifacts))
    return {name.removesuffix(".json"): stamp for name, stamp in listed.items()}


def _read_caches(artifacts: str, stamps: Mapping[str, str]) -> dict[str, CachedIndex]:
    """Return the entries that are up to date, of the shared cache or else of this user's."""
    if not stamps:
        return {}
    found = _valid(layout.run_index_cache_url(artifacts), stamps)
    own = _own_cache(artifacts)
    if len(found) < len(stamps) and own is not None and own.exists():
        found = {**_valid(str(own), stamps), **found}
    return found


def _valid(url: str, stamps: Mapping[str, str]) -> dict[str, CachedIndex]:
    try:
        cache = IndexCache.model_validate_json(files.read(url))
    except (FileNotFoundError, TuneloopError, ValidationError):
        return {}
    return {
        run_id: each
        for run_id, each in cache.runs.items()
        if each.stamp
        and stamps.get(run_id) == each.stamp
        and each.index.is_complete
        and check_run_index(each.index, run_id)
    }


def _write_cache(artifacts: str, cache: IndexCache) -> None:
    """Write the shared cache; a reader who may not write it keeps one of their own, or none."""
    data = jsonl.dump_line(sealed(cache.model_dump(mode="json")))
    try:
        files.write(layout.run_index_cache_url(artifacts), data)
    except TuneloopError:
        if (own := _own_cache(artifacts)) is not None:
            with contextlib.suppress(TuneloopError, OSError):
                files.write(str(own), data)


def _own_cache(artifacts: str) -> Path | None:
    if (folder := paths.cache_folder()) is None:
        return None
    name = hashlib.sha256(artifacts.rstrip("/").encode()).hexdigest()[:16]
    return folder / "tuneloop" / f"run_index-{name}.json"
