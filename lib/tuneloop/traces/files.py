"""Trace files into the store: checked whole first, then posted in batches that count once."""

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

    The file is read twice: a broken last line is found before the first trace is stored. The
    idempotency key of a batch names the file's content, so an interrupted import continues and a
    repeated one adds nothing.

    Args:
        url: the file.
        client: the store.
        progress: called with (traces posted, traces in the file).
        source_format: name of a row in IMPORTERS.

    Returns:
        Traces in the file.

    Raises:
        UsageError: there is no such file.
        DataError: a line is not a trace, or the file holds none.
    """
    convert = IMPORTERS[source_format].convert()
    digest, total = _check(url, convert)
    posted = 0
    objects = iter_jsonl(lines.iter_lines(files.iter_blocks(url)), url)
    while batch := [convert(value, f"{url}:{n}") for n, value in islice(objects, BATCH_TRACES)]:
        client.post_batch(batch, f"file/{digest}/{posted}")
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
        for line, value in iter_jsonl(lines.iter_lines(hashed()), url):
            parse_trace(convert(value, f"{url}:{line}"), url, line)
            total += 1
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected traces; check the path") from e
    if not total:
        raise DataError(f"{url}: holds no traces, expected one JSON object a line; fill the file")
    return sha256.hexdigest(), total
