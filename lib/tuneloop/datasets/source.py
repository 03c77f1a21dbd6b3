"""Read datasets from a prefix of artifacts, or from a trace store over HTTP.

Both ways give the same manifest and the same bytes, checked against the same digests. Results and
plans therefore do not depend on where a dataset is read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuneloop.datasets import read
from tuneloop.datasets.read import RowBlock
from tuneloop.datasets.schema import DatasetManifest, DatasetShard
from tuneloop.storage import files

if TYPE_CHECKING:
    from tuneloop.traces.client import TraceClient


class DatasetSource:
    """The datasets at a URL. As a context manager, it closes connections when it exits."""

    def __init__(self, url: str) -> None:
        """Create a source without sending a request.

        Args:
            url: a prefix that contains datasets/, or the address of a trace store (http or https),
                whose token is read from TUNELOOP_STORE_TOKEN.
        """
        self._url = url
        self._client = _connect(url) if is_store(url) else None

    def __enter__(self) -> DatasetSource:
        """Enter a context that closes the connections when it exits."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close connections."""
        if self._client is not None:
            self._client.close()

    def load_manifest(self, key: str) -> DatasetManifest:
        """Read the manifest of a dataset that must exist.

        Raises:
            DataError: the manifest is missing, truncated, edited or belongs to another dataset.
            Unavailable: the store does not answer.
        """
        if self._client is None:
            return read.load_manifest(self._url, key)
        place = read.manifest_url(self._client.place, key)
        return read.parse_manifest(self._client.get_manifest(key), place, key)

    def iter_row_range(
        self, manifest: DatasetManifest, start: int, stop: int
    ) -> Iterator[RowBlock]:
        """Stream the rows from `start` up to but excluding `stop`.

        Raises:
            DataError: a shard is missing, or its bytes do not match the manifest.
        """
        client = self._client
        if client is None:
            return read.iter_row_range(manifest, self._url, start, stop)

        def open_shard(url: str, shard: DatasetShard) -> Iterator[bytes]:
            blocks = client.iter_dataset_shard(manifest.dataset_key, shard.name)
            return files.verified(blocks, url, shard.size_bytes, shard.sha256)

        return read.iter_row_range(manifest, client.place, start, stop, open_shard)


def is_store(url: str) -> bool:
    """Return whether a URL is the address of a trace store and not of stored files."""
    return url.startswith(("http://", "https://"))


def _connect(url: str) -> TraceClient:
    # httpx takes 70 ms to import, and a dataset in a folder does not need it.
    from tuneloop.traces.client import TraceClient

    return TraceClient(url)
