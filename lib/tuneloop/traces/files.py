"""Import trace files into the store: check the whole file first, then post it in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice
from typing import Any

from tuneloop.errors import DataError, UsageError
from tuneloop.jsonl import iter_jsonl
from tuneloop.storage import files, lines
from tuneloop.traces.client import TraceClient
from tuneloop.traces.importers.table import IMPORTERS, Convert
from tuneloop.traces.schema import parse_trace

BATCH_TRACES = 1000


def import_file(
    url: str,
    client: TraceClient,
    progress: Callable[[int, int], None],
    source_format: str = "trace",
) -> int:
    """Post every trace of a JSONL file.

    The file is read twice, so that an invalid last line is found before the first trace is stored.
    The idempotency keys of the batches depend on the file's content. An interrupted import can
    therefore be repeated to continue it, and repeating a finished import adds nothing.

    Args:
        url: path or URL of the file.
        client: client of the store.
        progress: called with (traces posted, traces in the file).
        source_format: name of a format in IMPORTERS.

    Returns:
        The number of traces in the file.

    Raises:
        UsageError: there is no such file.
        DataError: a line is not a trace, the file has no traces, or the store does not have what
            it was sent.
    """
    convert = IMPORTERS[source_format].convert()
    digest, total = _check(url, convert)
    posted = 0
    objects = iter_jsonl(lines.iter_lines(files.iter_blocks(url), url), url)
    while batch := [convert(value, f"{url}:{n}") for n, value in islice(objects, BATCH_TRACES)]:
        ids = client.post_batch(batch, f"file/{digest}/{posted}")
        client.check_stored(ids[-1], batch[-1])
        posted += len(batch)
        progress(posted, total)
    return posted


def _check(url: str, convert: Convert) -> tuple[str, int]:
    sha256, total = hashlib.sha256(), 0

    def hashed() -> Any:
        for block in files.iter_blocks(url):
            sha256.update(block)
            yield block

    try:
        for line, value in iter_jsonl(lines.iter_lines(hashed(), url), url):
            parse_trace(convert(value, f"{url}:{line}"), url, line)
            total += 1
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a file of traces; check the path") from e
    if not total:
        raise DataError(
            f"{url}: the file has no traces, expected one JSON object per line; add traces"
        )
    return sha256.hexdigest(), total
