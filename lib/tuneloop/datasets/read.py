"""Published datasets: the manifest and its rows.

One rule: nothing is read but through a manifest, and every byte is checked against it. Works
without the store and without SQL, so that jobs can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import msgspec
from pydantic import ValidationError

from tuneloop.datasets.schema import (
    DatasetManifest,
    DatasetShard,
    TraceRow,
    build_id,
    is_key,
    request_of,
)
from tuneloop.errors import DataError
from tuneloop.storage import files, lines, paths
from tuneloop.validation import decode_error, first_error, shorten

_row_decoder = msgspec.json.Decoder(TraceRow)


def dataset_prefix(artifacts: str, key: str) -> str:
    """The dataset's folder.

    Raises:
        DataError: no dataset can have this key; so no key leads out of the artifacts.
    """
    if not is_key(key):
        raise DataError(
            f"dataset key {shorten(key)}: expected up to 200 letters, digits, '.', '_' and '-';"
            " use the dataset_key that the build replied"
        )
    return paths.join(artifacts, "datasets", key)


def manifest_url(artifacts: str, key: str) -> str:
    """Where the manifest lies once the dataset is published."""
    return paths.join(dataset_prefix(artifacts, key), "manifest.json")


def find_manifest(artifacts: str, key: str) -> DatasetManifest | None:
    """The manifest, None if there is no such dataset; makes no folder.

    Raises:
        DataError: the manifest is torn, edited or another dataset's.
    """
    url = manifest_url(artifacts, key)
    try:
        data = files.read(url)
    except FileNotFoundError:
        return None
    return parse_manifest(data, url, key)


def parse_manifest(data: bytes, url: str, key: str) -> DatasetManifest:
    """Read a manifest, wherever it comes from; DataError if it is torn, edited or another's."""
    try:
        manifest = DatasetManifest.model_validate_json(data)
        expected = build_id(request_of(manifest), manifest.seed, manifest.content_sha256)
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; rebuild the dataset") from e
    if manifest.dataset_key != key:
        raise DataError(
            f"{url}: dataset_key is {manifest.dataset_key}, expected {key}, its folder; move it"
            " back or rebuild the dataset"
        )
    if manifest.build_id != expected:
        raise DataError(
            f"{url}: build_id is {manifest.build_id}, expected {expected} for what it says; it was"
            " edited, restore it or rebuild the dataset"
        )
    return manifest


def load_manifest(artifacts: str, key: str) -> DatasetManifest:
    """The manifest of a dataset.

    Raises:
        DataError: there is none, or it is torn, edited or another dataset's.
    """
    manifest = find_manifest(artifacts, key)
    if manifest is None:
        raise DataError(f"{manifest_url(artifacts, key)}: missing; build the dataset first")
    return manifest


def list_manifest_keys(artifacts: str) -> list[str]:
    """Keys of all published datasets, sorted."""
    parts = (url.split("/") for url in files.list_files(paths.join(artifacts, "datasets")))
    return sorted(
        part[-2] for part in parts if part[-1] == "manifest.json" and part[-3] == "datasets"
    )


class RowBlock(NamedTuple):
    """Some rows in a row, decoded together: a call for each would cost more than the decoding."""

    url: str
    line: int
    """Of the first of them in the shard, from 1."""
    rows: list[TraceRow]

    def place(self, number: int) -> str:
        """Where row `number` of the block stands, from 0, as `URL:line`."""
        return f"{self.url}:{self.line + number}"

    def part(self, start: int, stop: int) -> RowBlock:
        """Rows `start` to `stop` of the block."""
        return RowBlock(self.url, self.line + start, self.rows[start:stop])


OpenShard = Callable[[str, DatasetShard], Iterator[bytes]]
"""(where a shard lies, what the manifest says of it) -> its bytes in blocks, verified."""


def _open_stored(url: str, shard: DatasetShard) -> Iterator[bytes]:
    return files.iter_verified(url, shard.size_bytes, shard.sha256)


def iter_shard_bytes(
    manifest: DatasetManifest, artifacts: str, shard: DatasetShard, start: int = 0
) -> Generator[bytes, None, None]:
    """Stream a shard from byte `start` on; the digest is checked over all of it.

    Raises:
        DataError: the shard is missing, or differs by as little as one byte.
    """
    url = paths.join(dataset_prefix(artifacts, manifest.dataset_key), shard.path)
    at = 0
    for block in _open_stored(url, shard):
        if at + len(block) > start:
            yield block[max(0, start - at) :]
        at += len(block)


def iter_row_range(
    manifest: DatasetManifest,
    artifacts: str,
    start: int,
    stop: int,
    open_shard: OpenShard = _open_stored,
) -> Iterator[RowBlock]:
    """Stream rows `start` to `stop`; of the shards, only those that hold one of them are read.

    Whoever reads to the end has read those shards as they were published, to their last byte.

    Raises:
        DataError: as `iter_rows`.
    """
    prefix, first = dataset_prefix(artifacts, manifest.dataset_key), 0
    for shard in manifest.shards:
        if first < stop and first + shard.rows > start:
            for block in _iter_blocks(shard, prefix, manifest, open_shard):
                before = first + block.line - 1
                part = block.part(max(0, start - before), max(0, stop - before))
                if part.rows:
                    yield part
        first += shard.rows


def cut_blocks(blocks: Iterator[RowBlock], every: int) -> Iterator[RowBlock]:
    """The same rows, in blocks of which none goes past a multiple of `every` rows."""
    left = every
    for block in blocks:
        while block.rows:
            part, block = block.part(0, left), block.part(left, len(block.rows))
            yield part
            left = left - len(part.rows) or every


def iter_rows(
    manifest: DatasetManifest, artifacts: str, shard: int | None = None
) -> Iterator[tuple[str, TraceRow]]:
    """Stream the rows of a dataset, or of its shard number `shard` from 0.

    Whoever reads to the end has read what was published; publish nothing before the end.

    Yields:
        Where the row stands, as `URL:line`, and the row.

    Raises:
        DataError: a shard is missing, or differs by as little as one byte.
    """
    prefix = dataset_prefix(artifacts, manifest.dataset_key)
    shards = manifest.shards if shard is None else (manifest.shards[shard],)
    for part in shards:
        for block in _iter_blocks(part, prefix, manifest):
            for number, row in enumerate(block.rows):
                yield block.place(number), row


def iter_row_blocks(
    manifest: DatasetManifest, artifacts: str, shard: int
) -> Iterator[list[TraceRow]]:
    """Stream the rows of a shard, some dozens at a time, for those who need no places.

    Raises:
        DataError: as `iter_rows`.
    """
    prefix = dataset_prefix(artifacts, manifest.dataset_key)
    for block in _iter_blocks(manifest.shards[shard], prefix, manifest):
        yield block.rows


def _iter_blocks(
    shard: DatasetShard,
    prefix: str,
    manifest: DatasetManifest,
    open_shard: OpenShard = _open_stored,
) -> Iterator[RowBlock]:
    url = paths.join(prefix, shard.path)
    count = 0
    for block in lines.iter_line_blocks(open_shard(url, shard)):
        rows = _decode_rows(block, url, count)
        yield RowBlock(url, count + 1, rows)
        count += len(rows)
    if count != shard.rows:
        said = "trace_count" if len(manifest.shards) == 1 else "rows"
        raise DataError(
            f"{paths.join(prefix, 'manifest.json')}: {said} is {shard.rows} but {shard.name} has"
            f" {count} rows; rebuild the dataset"
        )


def _decode_rows(block: bytes, url: str, before: int) -> list[TraceRow]:
    """The rows of some whole lines that follow `before` others."""
    try:
        return _row_decoder.decode_lines(block)
    except ValueError:  # msgspec's, or UnicodeDecodeError: which line it is, is found one by one
        for number, line in enumerate(block.splitlines(), start=before + 1):
            try:
                _row_decoder.decode(line)
            except ValueError as e:
                raise DataError(
                    f"{url}:{number}: {decode_error(e)}; restore the shard or rebuild it"
                ) from e
        raise


def delete_dataset(artifacts: str, key: str) -> None:
    """Delete a dataset: the manifest first, so that nobody begins to read what is going."""
    prefix = dataset_prefix(artifacts, key)
    files.delete_tree(manifest_url(artifacts, key))
    files.delete_tree(prefix)


def find_damage(manifest: DatasetManifest, artifacts: str) -> str | None:
    """Say which shard is missing or of another size, without reading any; None if none is."""
    prefix = dataset_prefix(artifacts, manifest.dataset_key)
    for shard in manifest.shards:
        size = files.size_bytes(paths.join(prefix, shard.path))
        if size != shard.size_bytes:
            found = "is missing" if size is None else f"holds {size} bytes"
            return f"{shard.name} {found}, expected {shard.size_bytes} bytes"
    return None
