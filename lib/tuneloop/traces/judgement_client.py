"""Labels and scores of a trace store, read and written over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from tuneloop.jsonl import dump_line
from tuneloop.traces.client import TraceClient
from tuneloop.traces.judgements import MAX_BATCH


def iter_labels(client: TraceClient, path: str, **filters: str | None) -> Iterator[dict[str, Any]]:
    """List labels in the order of arrival, one page per request.

    Args:
        client: client of the store.
        path: `/api/labels`, or the path of the labels of a trace.
        filters: parameters of the query; None leaves one out.
    """
    query = {name: value for name, value in filters.items() if value is not None}
    while True:
        reply = client.send("GET", f"{path}?{urlencode(query)}")
        yield from reply["data"]
        if reply["next_cursor"] is None:
            return
        query["cursor"] = reply["next_cursor"]


def post_scores(
    client: TraceClient, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[int, int]]:
    """Store scores in batches; the same scores are stored once, however often they are posted.

    Args:
        client: client of the store.
        rows: scores as `POST /api/scores/batch` takes them.

    Yields:
        The number of stored scores, and of scores of traces that the store does not have, of each
        batch.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, MAX_BATCH)):
        digest = hashlib.sha256(b"".join(dump_line(dict(row)) for row in batch)).hexdigest()
        reply = client.send("POST", "/api/scores/batch?unknown=skip", batch, f"scores/{digest}")
        yield reply["created_count"], reply["unknown_count"]
