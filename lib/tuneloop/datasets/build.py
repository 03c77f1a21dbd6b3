"""Build a dataset: write the rows into shards, publish the manifest, then describe the dataset.

The content of a dataset key never changes. Shards are written under `attempts/<unique>/`, so that
concurrent or interrupted builds cannot change files of a published dataset. Files that no manifest
names are never read. Rows keep the order of the selection: newest first for `latest`, by digest for
`random`.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import chain, islice
from typing import Any

from pydantic import BaseModel

from tuneloop import jsonl
from tuneloop.datasets.croissant import dump_croissant
from tuneloop.datasets.read import (
    croissant_url,
    dataset_prefix,
    find_damage,
    find_manifest,
    manifest_url,
)
from tuneloop.datasets.schema import (
    BuildRequest,
    Content,
    ContentHasher,
    DatasetManifest,
    DatasetShard,
    Selection,
    TraceRow,
    build_id,
    request_of,
)
from tuneloop.datasets.selection.account import SelectionAccount
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed
from tuneloop.traces.schema import utc_text
from tuneloop.validation import shorten

SHARD_ROWS = 100_000
"""Maximum rows per shard, about 150 MB."""

_NOT_COMPARED = ("provenance", "include_evaluation")
"""Fields that a later request for the same dataset may have otherwise; the content is compared."""

Select = Callable[[int], AbstractContextManager[Selection]]
"""Runs the request's selection with a seed; the rows can be read until the context exits."""


class DatasetConflict(DataError):
    """A dataset with this key and other content exists."""


class DatasetEmpty(DataError):
    """No trace matched the request."""


def build(
    select: Select,
    request: BuildRequest,
    artifacts: str,
    *,
    now: datetime,
    new_seed: Callable[[], int],
    shard_rows: int = SHARD_ROWS,
) -> tuple[DatasetManifest, bool]:
    """Publish a dataset, or find that the same dataset is already published.

    Args:
        select: selects the rows; called once, or twice if a concurrent build publishes first.
        request: the build request. If it has no seed, the seed of the published dataset is used, or
            a new one.
        artifacts: URL of the prefix that contains datasets/.
        now: creation time for the manifest; it has no other effect.
        new_seed: draws a seed.
        shard_rows: maximum rows per shard.

    Returns:
        The manifest, and whether this call published it.

    Raises:
        DatasetEmpty: no trace matched the filters.
        DatasetConflict: the key belongs to a dataset with another request or other traces.
        DataError: the published dataset is damaged.
    """
    existing = find_manifest(artifacts, request.dataset_key)
    if existing is None:
        seed = new_seed() if request.seed is None else request.seed
        built = _publish(select, request, artifacts, seed=seed, now=now, shard_rows=shard_rows)
        if built is not None:
            _describe(built, artifacts)
            return built, True
        # A concurrent build published the key first.
        existing = find_manifest(artifacts, request.dataset_key)
        if existing is None:
            raise DatasetConflict(
                f"dataset {request.dataset_key}: it was deleted during the build; build it again"
            )
    _require_same(existing, select, request, artifacts)
    _describe(existing, artifacts)
    return existing, False


def _describe(manifest: DatasetManifest, artifacts: str) -> None:
    """Write the description for other tools; one that is there stays, like all of a dataset."""
    files.publish(croissant_url(artifacts, manifest.dataset_key), dump_croissant(manifest))


def _require_same(
    existing: DatasetManifest, select: Select, request: BuildRequest, artifacts: str
) -> None:
    """Check that the published dataset equals what this build would make, and is not damaged."""
    _require_same_request(existing, request)
    with select(existing.seed) as selection:
        content = _read_content(selection)
    _require_same_content(existing, content)
    if damage := find_damage(existing, artifacts):
        raise DataError(
            f"{manifest_url(artifacts, existing.dataset_key)}: {damage}; delete the folder"
            f" datasets/{existing.dataset_key} and build the dataset again"
        )


def _publish(
    select: Select,
    request: BuildRequest,
    artifacts: str,
    *,
    seed: int,
    now: datetime,
    shard_rows: int,
) -> DatasetManifest | None:
    """Write shards and manifest; returns None if the key was published by another build."""
    prefix = dataset_prefix(artifacts, request.dataset_key)
    attempt = f"attempts/{uuid.uuid4().hex}"
    with contextlib.ExitStack() as undo:
        undo.callback(files.delete_tree, paths.join(prefix, attempt))
        with select(seed) as selection:
            shards, content = _write_shards(selection, prefix, attempt, shard_rows)
        manifest = _manifest(request, seed, now, shards, content, selection.account)
        # From here on the shards must stay: after an error, a manifest may already name them.
        undo.pop_all()
    value = sealed(manifest.model_dump(mode="json"))
    data = json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
    if files.publish(manifest_url(artifacts, request.dataset_key), data):
        return manifest
    files.delete_tree(paths.join(prefix, attempt))
    return None


def _manifest(
    request: BuildRequest,
    seed: int,
    now: datetime,
    shards: list[DatasetShard],
    content: Content,
    account: SelectionAccount | None,
) -> DatasetManifest:
    return DatasetManifest(
        **{**dict(request), "seed": seed, "provenance": _provenance(request, seed, now, content)},
        dataset_key=request.dataset_key,
        build_id=build_id(request, seed, content.sha256),
        created_at=utc_text(now),
        trace_count=content.stats.trace_count,
        stats=content.stats,
        content_sha256=content.sha256,
        shards=tuple(shards),
        account=account,
    )


def _provenance(
    request: BuildRequest, seed: int, now: datetime, content: Content
) -> dict[str, Any]:
    """Build the provenance that clients of the seed's API expect; the caller's keys win."""
    return {
        "schema_version": "1.0",
        "source": "tuneloop",
        "build_timestamp": utc_text(now),
        "trace_count": content.stats.trace_count,
        "selection_strategy": request.selection_strategy,
        "seed": seed,
        **request.provenance,
    }


def _write_shards(
    selection: Selection, prefix: str, attempt: str, shard_rows: int
) -> tuple[list[DatasetShard], Content]:
    hasher = ContentHasher()
    rows = _nonempty(selection)
    total = -(-selection.count // shard_rows)
    shards = []
    for index in range(total):
        name = f"traces-{index:05d}-of-{total:05d}.jsonl"
        count = 0
        with files.Writer(paths.join(prefix, attempt, name)) as writer:
            for row in islice(rows, shard_rows):
                writer.write(hasher.add(row))
                count += 1
            written = writer.close()
        shards.append(
            DatasetShard(
                name=name,
                path=f"{attempt}/{name}",
                rows=count,
                size_bytes=written.size_bytes,
                sha256=written.sha256,
            )
        )
    return shards, hasher.content()


def _read_content(selection: Selection) -> Content:
    hasher = ContentHasher()
    for row in _nonempty(selection):
        hasher.add(row)
    return hasher.content()


def _nonempty(selection: Selection) -> Iterator[TraceRow]:
    first = next(selection.rows, None)
    if first is None:
        raise DatasetEmpty(f"Dataset is empty. No traces matched the filters.{_why(selection)}")
    return chain([first], selection.rows)


def _why(selection: Selection) -> str:
    """Return what removed the traces, as a further sentence; empty if only the filters did."""
    rules = () if selection.account is None else selection.account.rules
    removed = [f"{one.rule} {one.removed}" for one in rules if one.removed]
    if not removed or [one.rule for one in rules if one.removed] == ["filters"]:
        return ""
    return f" Removed traces by rule: {', '.join(removed)}."


def _require_same_request(existing: DatasetManifest, request: BuildRequest) -> None:
    built = request_of(existing)
    for name in BuildRequest.model_fields:
        asked, had = _as_json(getattr(request, name)), _as_json(getattr(built, name))
        if (name == "seed" and asked is None) or name in _NOT_COMPARED:
            continue
        # Compare as JSON, because Python considers True and 1 equal.
        if jsonl.dump_line({name: asked}) != jsonl.dump_line({name: had}):
            raise DatasetConflict(
                f"dataset {existing.dataset_key}: {name} is {shorten(asked)}, but it was built with"
                f" {shorten(had)}; a dataset never changes, use another dataset_version"
            )


def _as_json(value: Any) -> Any:
    is_model = isinstance(value, BaseModel)
    return value.model_dump(mode="json", exclude_defaults=True) if is_model else value


def _require_same_content(existing: DatasetManifest, content: Content) -> None:
    if content.sha256 != existing.content_sha256:
        raise DatasetConflict(
            f"dataset {existing.dataset_key}: the request now selects"
            f" {content.stats.trace_count} traces that differ from the {existing.trace_count} it"
            " was built with; a dataset never changes, use another dataset_version"
        )
