"""Read published datasets: the manifest and its rows.

Rows are only read through a manifest, and every byte is checked against the digests in it. This
module needs neither the trace store nor a database, so that jobs can use it.
"""

from __future__ import annotations

import json
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
from tuneloop.storage.links import refuse_links_out
from tuneloop.storage.sealed import unsealed
from tuneloop.validation import decode_error, first_error, shorten

_row_decoder = msgspec.json.Decoder(TraceRow)


def dataset_prefix(artifacts: str, key: str) -> str:
    """Return the prefix of a dataset.

    Raises:
        DataError: the key is invalid. The check ensures that no key leads out of the artifacts.
    """
    if not is_key(key):
        raise DataError(
            f"dataset key {shorten(key)}: expected up to 200 letters, digits, '.', '_' and '-';"
            " use the dataset_key from the reply of the build"
        )
    return paths.join(artifacts, "datasets", key)


def manifest_url(artifacts: str, key: str) -> str:
    """Return the URL of a dataset's manifest, which exists once the dataset is published."""
    return paths.join(dataset_prefix(artifacts, key), "manifest.json")


def croissant_url(artifacts: str, key: str) -> str:
    """Return the URL of a dataset's description in Croissant."""
    return paths.join(dataset_prefix(artifacts, key), "croissant.json")


def find_manifest(artifacts: str, key: str) -> DatasetManifest | None:
    """Read a dataset's manifest; returns None if there is no such dataset.

    Raises:
        DataError: the manifest is truncated, was edited or belongs to another dataset.
    """
    url = manifest_url(artifacts, key)
    try:
        data = files.read(url)
    except FileNotFoundError:
        return None
    return parse_manifest(data, url, key)


def parse_manifest(data: bytes, url: str, key: str) -> DatasetManifest:
    """Parse and validate a manifest.

    Args:
        data: the manifest as JSON.
        url: location of the manifest, for error messages.
        key: expected dataset key.

    Raises:
        DataError: the manifest is truncated, was edited or belongs to another dataset.
    """
    try:
        manifest = DatasetManifest.model_validate_json(data)
        expected = build_id(request_of(manifest), manifest.seed, manifest.content_sha256)
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; rebuild the dataset") from e
    if manifest.dataset_key != key:
        raise DataError(
            f"{url}: dataset_key is {manifest.dataset_key}, expected {key} as in the URL; move the"
            " dataset back or rebuild it"
        )
    if manifest.build_id != expected:
        raise DataError(
            f"{url}: build_id is {manifest.build_id}, expected {expected} for its content; the"
            " manifest was edited, restore it or rebuild the dataset"
        )
    try:
        unsealed(json.loads(data))
    except ValueError as e:
        raise DataError(f"{url}: {e}; restore it or rebuild the dataset") from e
    return manifest


def load_manifest(artifacts: str, key: str) -> DatasetManifest:
    """Read the manifest of a dataset that must exist.

    Raises:
        DataError: the manifest is missing, truncated, edited or belongs to another dataset.
    """
    manifest = find_manifest(artifacts, key)
    if manifest is None:
        raise DataError(f"{manifest_url(artifacts, key)}: no such file; build the dataset first")
    return manifest


def list_manifest_keys(artifacts: str) -> list[str]:
    """List the keys of all published datasets, sorted."""
    parts = (url.split("/") for url in files.list_files(paths.join(artifacts, "datasets")))
    return sorted(
        part[-2] for part in parts if part[-1] == "manifest.json" and part[-3] == "datasets"
    )


class RowBlock(NamedTuple):
    """Consecutive rows of a shard; decoding them together is faster than row by row."""

    url: str
    """URL of the shard."""
    line: int
    """Line number of the first row in the shard, from 1."""
    rows: list[TraceRow]

    def place(self, number: int) -> str:
        """Return the location of row `number` of the block (from 0), as `URL:line`."""
        return f"{self.url}:{self.line + number}"

    def part(self, start: int, stop: int) -> RowBlock:
        """Return the rows from `start` up to but excluding `stop`, as a block."""
        return RowBlock(self.url, self.line + start, self.rows[start:stop])


OpenShard = Callable[[str, DatasetShard], Iterator[bytes]]
"""(URL of a shard, its entry in the manifest) -> verified blocks of bytes."""


def _open_stored(url: str, shard: DatasetShard) -> Iterator[bytes]:
    # Before the first byte: its digest is known only after the last one.
    refuse_links_out(url.removesuffix(shard.path), [shard.path])
    return files.iter_verified(url, shard.size_bytes, shard.sha256)


def iter_shard_bytes(
    manifest: DatasetManifest, artifacts: str, shard: DatasetShard, start: int = 0
) -> Generator[bytes, None, None]:
    """Stream a shard from byte `start`; the digest is always checked over the whole shard.

    Raises:
        DataError: the shard is missing, or its bytes do not match the manifest.
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
    """Stream the rows from `start` up to but excluding `stop`, reading only the shards needed.

    Each of these shards is verified only once it has been read to its end, so callers must not
    publish results before the iterator is exhausted.

    Raises:
        DataError: a shard is missing, or its bytes do not match the manifest.
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
    """Split blocks so that none contains rows before and after a multiple of `every` rows."""
    left = every
    for block in blocks:
        while block.rows:
            part, block = block.part(0, left), block.part(left, len(block.rows))
            yield part
            left = left - len(part.rows) or every


def iter_rows(
    manifest: DatasetManifest, artifacts: str, shard: int | None = None
) -> Iterator[tuple[str, TraceRow]]:
    """Stream the rows of a dataset, or those of one shard.

    A shard is verified only once it has been read to its end, so callers must not publish results
    before the iterator is exhausted.

    Args:
        manifest: manifest of the dataset.
        artifacts: URL of the prefix that contains datasets/.
        shard: number of the shard, from 0; None streams all shards.

    Yields:
        The location of the row, as `URL:line`, and the row.

    Raises:
        DataError: a shard is missing, or its bytes do not match the manifest.
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
    """Stream the rows of a shard in blocks of some dozens, without their locations.

    Raises:
        DataError: the shard is missing, or its bytes do not match the manifest.
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
    for block in lines.iter_line_blocks(open_shard(url, shard), place=url):
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
    """Decode a block of whole lines.

    Args:
        block: the lines.
        url: URL of the shard, for error messages.
        before: number of lines of the shard before this block.
    """
    try:
        return _row_decoder.decode_lines(block)
    except ValueError:  # msgspec.DecodeError or UnicodeDecodeError
        # The lines are decoded one by one to find the invalid one.
        for number, line in enumerate(block.splitlines(), start=before + 1):
            try:
                _row_decoder.decode(line)
            except ValueError as e:
                raise DataError(
                    f"{url}:{number}: {decode_error(e)}; restore the shard or rebuild it"
                ) from e
        raise


def delete_dataset(artifacts: str, key: str) -> None:
    """Delete a dataset; the manifest goes first, so that no new reader starts meanwhile."""
    prefix = dataset_prefix(artifacts, key)
    files.delete_tree(manifest_url(artifacts, key))
    files.delete_tree(prefix)


def find_damage(manifest: DatasetManifest, artifacts: str) -> str | None:
    """Check that all shards exist with the right size, without reading them.

    Returns:
        A description of the first problem, or None if there is none.
    """
    prefix = dataset_prefix(artifacts, manifest.dataset_key)
    for shard in manifest.shards:
        try:
            refuse_links_out(prefix, [shard.path])
        except DataError as e:
            return str(e)
        size = files.size_bytes(paths.join(prefix, shard.path))
        if size != shard.size_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            return f"{shard.name} {found}, expected {shard.size_bytes} bytes"
    return None
