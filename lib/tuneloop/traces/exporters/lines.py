"""Write traces as lines of a format, and count what the format does not hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tuneloop.jsonl import dump_line
from tuneloop.traces.exporters.extras import extras_of
from tuneloop.traces.exporters.table import EXPORTERS
from tuneloop.traces.importers.table import IMPORTERS

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Keeps the order of keys; in ATIF, arguments of calls are objects."""


class Lines:
    """Converts traces to lines of one format."""

    def __init__(self, name: str) -> None:
        """Prepare a format.

        Args:
            name: key of EXPORTERS.
        """
        row = EXPORTERS[name]
        self._name = name
        self._export = row.export()
        self._convert = None if row.is_lossless else IMPORTERS[row.importer].convert()
        self._lost: Counter[str] = Counter()

    def line(self, trace: Mapping[str, Any]) -> bytes:
        """Return the line of a trace.

        Args:
            trace: a valid trace as a JSON object.
        """
        record = self._export(trace)
        if self._convert is not None:
            lost = extras_of(trace, record, self._convert)
            self._lost.update(name for name in lost if name != "trace_version")
        return dump_line(record) if record is trace else f"{_encode(record)}\n".encode()

    def losses(self) -> Iterator[str]:
        """Yield a sentence for each field that the lines so far do not hold."""
        for name, count in sorted(self._lost.items()):
            yield f"--format {self._name} does not hold the whole {name} of {count} traces"
