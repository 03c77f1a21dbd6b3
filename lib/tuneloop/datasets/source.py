"""Where a dataset is read from: a prefix of artifacts, or a trace store over HTTP.

One rule: the same manifest and the same bytes either way, checked against the same digests. So what
is made of a dataset does not depend on how it was reached, and nothing of a plan does.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuneloop.datasets import read
from tuneloop.datasets.read import RowBlock
from tuneloop.datasets.schema import DatasetManifest, DatasetShard
from tuneloop.storage import files
from tuneloop.traces.client import TraceClient


class DatasetSource:
    """Datasets below a URL; a context manager, which closes connections at its end."""

    def __init__(self, url: str) -> None:
        """Nothing is asked yet.

        Args:
            url: a prefix that holds datasets/, or the address of a trace store (http or https); its
                token is TUNELOOP_STORE_TOKEN.
        """
        self._url = url
        self._client = TraceClient(url) if is_store(url) else None

    def __enter__(self) -> DatasetSource:
        """Nothing is asked yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close connections."""
        if self._client is not None:
            self._client.close()

    def load_manifest(self, key: str) -> DatasetManifest:
        """The manifest of a dataset.

        Raises:
            DataError: there is none, or it is torn, edited or another dataset's.
            Unavailable: the store does not answer.
        """
        if self._client is None:
            return read.load_manifest(self._url, key)
        place = read.manifest_url(self._client.place, key)
        return read.parse_manifest(self._client.get_manifest(key), place, key)

    def iter_row_range(
        self, manifest: DatasetManifest, start: int, stop: int
    ) -> Iterator[RowBlock]:
        """Stream rows `start` to `stop`, as `datasets.read.iter_row_range` does."""
        client = self._client
        if client is None:
            return read.iter_row_range(manifest, self._url, start, stop)

        def open_shard(url: str, shard: DatasetShard) -> Iterator[bytes]:
            blocks = client.iter_dataset_shard(manifest.dataset_key, shard.name)
            return files.verified(blocks, url, shard.size_bytes, shard.sha256)

        return read.iter_row_range(manifest, client.place, start, stop, open_shard)


def is_store(url: str) -> bool:
    """Whether a URL is that of a trace store, not of stored files."""
    return url.startswith(("http://", "https://"))
