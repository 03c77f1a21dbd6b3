"""Import trace files into the store: read the whole file first, then post it in batches.

One invalid record refuses the file, unless the caller names a file for the refused records.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from pydantic import ValidationError

from tuneloop.errors import DataError, UsageError
from tuneloop.jsonl import dump_line
from tuneloop.storage import files, paths
from tuneloop.storage.errors import refusal
from tuneloop.storage.rows.row import Row
from tuneloop.storage.rows.source import Source, iter_rows
from tuneloop.traces.client import TraceClient
from tuneloop.traces.importers.table import IMPORTERS
from tuneloop.traces.schema import ReasoningTrace
from tuneloop.validation import first_error

BATCH_TRACES = 1000
_SPOOL_BYTES = 64 << 20
"""Size of traces above which they are kept on disk instead of in memory."""


@dataclass(frozen=True)
class ImportOptions:
    """What the user states about the records of a file, because nothing is guessed."""

    source_format: str = "trace"
    """Key of IMPORTERS."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Key that the format expects -> key of the record, such as `prompt` -> `question`."""
    dropped: tuple[str, ...] = ()
    """Keys of records that are not read."""


@dataclass
class Imported:
    """The accounts of an import."""

    traces: int = 0
    """Traces that are in the store."""
    refused: int = 0
    """Records that were refused and written to a file."""
    skipped: int = 0
    """Records that are no traces by the rules of the format, such as spans of tools."""


def import_file(
    source: Source,
    client: TraceClient,
    progress: Callable[[int, int], None],
    options: ImportOptions | None = None,
    refused: str | None = None,
) -> Imported:
    """Post every trace of a file or folder.

    All traces are read before the first one is posted, so that an invalid last record is found in
    time. They are kept in a temporary file. The idempotency keys of the batches depend on the
    file's content and on the options. An interrupted import can therefore be repeated to continue
    it, and repeating a finished import adds nothing.

    Args:
        source: the file or folder.
        client: client of the store.
        progress: called with (traces posted, traces in the file).
        options: what the records hold; default: traces.
        refused: path or URL of a JSONL file for records that are refused; None refuses the file as
            a whole if it has one. The file is replaced, and is not written without such records.

    Raises:
        UsageError: there is no such file.
        DataError: a record is not a trace, the file has no traces, or the store does not have what
            it was sent.
    """
    if refused is not None and paths.absolute(refused) == paths.absolute(source.url):
        raise UsageError(f"--refused {refused}: is the imported file, expected another file")
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, prefix="tuneloop-") as spool:
        reader = _Reader(source, options or ImportOptions())
        digest = reader.check(refused, client.dump, spool)
        counts, posted = reader.counts, 0
        spool.seek(0)
        while batch := [line.decode() for line in islice(spool, BATCH_TRACES)]:
            ids = client.post_dumped(batch, f"file/{digest}/{posted}")
            client.check_stored(ids[-1], json.loads(batch[-1]))
            posted += len(batch)
            progress(posted, counts.traces)
    return counts


class _Reader:
    """Reads and validates the traces of a file."""

    def __init__(self, source: Source, options: ImportOptions) -> None:
        row = IMPORTERS[options.source_format]
        self._source, self._options = source, options
        self._convert = row.convert()
        self._split = None if row.split is None else row.split()
        self._is_changed = False
        self.counts = Imported()

    def check(self, refused: str | None, dump: Callable[[object], str], spool: IO[bytes]) -> str:
        """Validate every record, and keep the traces.

        Args:
            refused: place for refused records; None refuses the file.
            dump: returns a trace as JSON on one line.
            spool: the file for the traces, one per line.

        Returns:
            A digest of the stored files and of what they are read as.
        """
        sha256 = hashlib.sha256()
        with _Refusals(refused) as refusals:
            for row in iter_rows(self._source, sha256.update):
                for where, part in self._parts(row, refusals):
                    try:
                        trace = self._convert(part, where)
                        _validate(trace, where)
                        text = dump(trace)
                    except DataError as e:
                        refusals.add(where, str(e), part)
                        continue
                    except RecursionError:
                        refusals.add(where, _too_deep(where), part)
                        continue
                    _keep(spool, text)
                    self.counts.traces += 1
                    self._is_changed |= trace is not part
            self.counts.refused = refusals.count
        if not self.counts.traces:
            raise DataError(
                f"{self._source.url}: the file has no traces ({self.counts.refused} records"
                f" refused, {self.counts.skipped} skipped), expected at least one; add traces"
            )
        return self._digest(sha256)

    def _digest(self, sha256: Any) -> str:
        """Return the digest; that of plain traces is the digest of the file alone."""
        options, source = self._options, self._source
        stated = {
            "columns": dict(options.columns),
            "dropped": sorted(options.dropped),
            "format": options.source_format,
            "refused": self.counts.refused,
            "type": source.file_type,
        }
        plain = {
            **{"columns": {}, "dropped": [], "format": "trace", "refused": 0},
            "type": source.file_type,
        }
        if stated != plain or self._is_changed:
            # Before version 1.1 of traces, tuneloop made other traces of the same file.
            sha256.update(json.dumps(["1.1", stated], sort_keys=True).encode())
        return str(sha256.hexdigest())

    def _parts(self, row: Row, refusals: _Refusals) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if row.value is None:
            refusals.add(row.place, str(row.problem), row.text)
            return
        try:
            record = self._renamed(row.value, row.place)
            if self._split is None:
                yield row.place, record
                return
            parts = list(self._split(record, row.place))
        except DataError as e:
            refusals.add(row.place, str(e), row.value)
            return
        except RecursionError:
            refusals.add(row.place, _too_deep(row.place), row.value)
            return
        for where, part in parts:
            if part is None:
                self.counts.skipped += 1
            else:
                yield where, part

    def _renamed(self, record: dict[str, Any], place: str) -> dict[str, Any]:
        options = self._options
        if not options.columns and not options.dropped:
            return record
        record = {key: value for key, value in record.items() if key not in options.dropped}
        absent = [name for name in options.columns.values() if name not in record]
        if absent:
            raise DataError(
                f"{place}: has no {absent[0]!r}, which --columns names, expected one of"
                f" {', '.join(record)}; correct the option"
            )
        values = {key: record[name] for key, name in options.columns.items()}
        rest = {k: v for k, v in record.items() if k not in options.columns.values()}
        if both := sorted(rest.keys() & values.keys()):
            raise DataError(
                f"{place}: has {both[0]!r} and --columns names another for it, expected one of"
                f" them; add --drop {both[0]}"
            )
        return values | rest


def _too_deep(where: str) -> str:
    return f"{where}: is nested too deeply to read, expected fewer levels; flatten it"


def _keep(spool: IO[bytes], text: str) -> None:
    try:
        spool.write(f"{text}\n".encode())
    except OSError as e:
        raise refusal(e, f"the temporary file in {tempfile.gettempdir()}") or e from e


def _validate(trace: Mapping[str, Any], where: str) -> None:
    try:
        ReasoningTrace.model_validate(trace)
    except ValidationError as e:
        raise DataError(f"{where}: {first_error(e)}; fix the line") from e


class _Refusals:
    """Writes refused records to a file; without one, the first is an error."""

    def __init__(self, place: str | None) -> None:
        self._place = place
        self._writer: files.Writer | None = None
        self.count = 0

    def __enter__(self) -> _Refusals:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._writer is not None:
            with self._writer:
                if kind is None:
                    self._writer.close()

    def add(self, where: str, reason: str, record: object) -> None:
        if self._place is None:
            raise DataError(reason)
        if self._writer is None:
            self._writer = files.Writer(self._place)
        self.count += 1
        self._writer.write(_line(where, reason, record))


def _line(where: str, reason: str, record: object) -> bytes:
    try:
        return dump_line({"place": where, "reason": reason, "record": record})
    except (TypeError, ValueError):  # NaN of a table, or half of a surrogate pair
        return dump_line({"place": where, "reason": reason, "record": repr(record)})
    except RecursionError:
        return dump_line({"place": where, "reason": reason, "record": "nested too deeply"})
