"""Reads many traces of a store with their payloads, in streamed replies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from tuneloop.errors import Unavailable
from tuneloop.traces.client import TraceClient

PAGE_TRACES = 10_000
"""Traces of one reply. A store that is asked to stop ends soon, because replies are not long."""


def iter_exported(
    client: TraceClient, *, limit: int | None = None, source: str | None = None
) -> Iterator[dict[str, Any]]:
    """Read traces, newest first; after a broken connection, continue after the last whole line.

    Args:
        client: client of the store.
        limit: maximum number of traces; None reads all.
        source: only traces with this `meta.source`; None reads all.

    Yields:
        Objects with `id`, `created_at`, `trace_version` and `payload`.

    Raises:
        Unavailable: the store does not answer, or a line is no trace.
    """
    cursor: str | None = None
    left = math.inf if limit is None else limit
    while left > 0:
        page = _Page(client, int(min(left, PAGE_TRACES)), source, cursor)
        left -= page.left
        yield from page.rows()
        if page.left:
            return
        cursor = page.cursor


class _Page:
    """The next traces up to a number; reads on with another request if the connection breaks."""

    def __init__(
        self, client: TraceClient, size: int, source: str | None, cursor: str | None
    ) -> None:
        self._client, self._source = client, source
        self.left, self.cursor = size, cursor
        self._begun = b""
        """The beginning of the line that is arriving."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the traces; afterwards, `left` of them do not exist."""
        for block in self._client.stream(self._rest):
            *lines, self._begun = (self._begun + block).split(b"\n")
            for line in lines:
                row = self._read(line)
                self.left, self.cursor = self.left - 1, row["cursor"]
                yield row

    def _rest(self) -> tuple[str, dict[str, str]] | None:
        self._begun = b""
        query = {"limit": str(self.left), "source": self._source, "cursor": self.cursor}
        given = {name: value for name, value in query.items() if value is not None}
        return (f"/api/traces/export.jsonl?{urlencode(given)}", {}) if self.left else None

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            row["cursor"], row["payload"]
        except (ValueError, KeyError, TypeError) as e:
            raise Unavailable(
                f"{self._client.place}: a line of the export is no trace, expected an object with"
                " cursor and payload; check that the URL is that of a trace store"
            ) from e
        return row
