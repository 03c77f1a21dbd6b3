"""The outcome table: one row per trace with its outcome, and what is computed from all tables.

Each process writes the table of its shard as Parquet. What needs the whole dataset (duplicates,
the balance of all traces, length statistics) is computed by DuckDB in bounded memory.
"""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pyarrow
import pyarrow.parquet

from tuneloop.training.export.exclusions import SPLITS
from tuneloop.training.schema import Reason

MEMORY_LIMIT = "96MB"
"""Of DuckDB; what does not fit is spilled to the folder."""
PARTITION_ROWS = 500_000
"""Rows whose keys are compared at a time: about 30 MB of hash table."""
FETCH_ROWS = 10_000

_KEY_BYTES = 16
NO_KEY = bytes(_KEY_BYTES)
"""Of what has no example, or of what nobody compares."""
_COLUMNS = {
    "row": pyarrow.uint64(),
    "trace_id": pyarrow.string(),
    "outcome": pyarrow.string(),
    "key": pyarrow.binary(_KEY_BYTES),
    "prompt_characters": pyarrow.uint32(),
    "response_characters": pyarrow.uint32(),
    "prompt_tokens": pyarrow.uint32(),
    "response_tokens": pyarrow.uint32(),
    "flags": pyarrow.uint8(),
}
_CODES = {pyarrow.uint64(): "Q", pyarrow.uint32(): "I", pyarrow.uint8(): "B"}
LENGTHS = ("prompt_characters", "response_characters", "prompt_tokens", "response_tokens")

CONTAMINATED, TRUNCATED = 1, 2
"""Flags of an example that was kept: it overlaps the eval set; it lost steps."""


def duplicate_key(normalized: bytes) -> bytes:
    """128 bits of an example's normalized text; the same for examples that read the same."""
    # SHA-256 runs in hardware; BLAKE2 takes twice the time.
    return hashlib.sha256(normalized, usedforsecurity=False).digest()[:_KEY_BYTES]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What became of one trace; a row of the Parquet file."""

    row: int
    trace_id: str
    outcome: str
    """A split, or why there is no example."""
    key: bytes
    """`duplicate_key`, or NO_KEY."""
    prompt_characters: int
    response_characters: int
    prompt_tokens: int | None
    """None in every entry where there is no tokenizer."""
    response_tokens: int | None
    flags: int
    bands: tuple[int, ...]
    """`minhash.band_keys`; as many in every entry, none where nobody looks for near-duplicates."""


def dump_outcomes(entries: Sequence[Entry]) -> bytes:
    """Write the entries of one shard as Parquet; the same bytes for the same entries."""
    arrays = {
        name: _column(list(map(attrgetter(name), entries)), kind) for name, kind in _COLUMNS.items()
    }
    for number, keys in enumerate(zip(*(entry.bands for entry in entries), strict=True)):
        arrays[_band(number)] = _column(keys, pyarrow.uint64())
    table = pyarrow.Table.from_arrays(list(arrays.values()), names=list(arrays))
    file = io.BytesIO()
    # Ids and keys do not repeat: a dictionary of them would be built and thrown away.
    pyarrow.parquet.write_table(table, file, compression="zstd", use_dictionary=["outcome"])
    return file.getvalue()


def _band(number: int) -> str:
    return f"band_{number:02d}"


def _column(values: Sequence[Any], kind: pyarrow.DataType) -> pyarrow.Array:
    """One column from its bytes: `pyarrow.array` would import pandas where it is installed."""
    length = len(values)
    if pyarrow.types.is_string(kind):
        texts = [value.encode() for value in values]
        offsets = pyarrow.py_buffer(array("i", [0, *accumulate(map(len, texts))]))
        return pyarrow.StringArray.from_buffers(length, offsets, pyarrow.py_buffer(b"".join(texts)))
    if length and values[0] is None:
        return pyarrow.nulls(length, kind)
    code = _CODES.get(kind)
    data = b"".join(values) if code is None else array(code, values)
    return pyarrow.Array.from_buffers(kind, length, [None, pyarrow.py_buffer(data)])


class Removed(NamedTuple):
    """An example that goes because another one stays."""

    row: int
    trace_id: str
    reason: Reason
    kept_id: str
    """The trace whose example stays: of all that are alike, the first in the dataset."""


_GONE = """
    SELECT gone.row, gone.trace_id, stays.trace_id AS kept_id, alike.kept
    FROM alike
    JOIN part AS gone ON gone.key = alike.key AND gone.row > alike.kept
    JOIN part AS stays ON stays.row = alike.kept
"""
"""What goes of a slice."""


class OutcomeTables:
    """The outcome tables of all shards together."""

    def __init__(self, tables: Sequence[Path], folder: Path) -> None:
        """Open them; `folder` takes what does not fit into memory."""
        self._duck = duckdb.connect(str(folder / "outcomes.duckdb"))
        self._duck.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self._duck.execute("SET threads = 1")
        self._duck.execute("SET preserve_insertion_order = false")
        self._duck.execute("SET temp_directory = $folder", {"folder": str(folder / "spilled")})
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in tables)
        self._duck.execute(f"CREATE VIEW outcomes AS SELECT * FROM read_parquet([{files}])")
        self._duck.execute(
            "CREATE TABLE removed (row UBIGINT, trace_id VARCHAR, reason VARCHAR, kept_id VARCHAR)"
        )
        self.traces: int = self._one("SELECT count(*) FROM outcomes")
        self._partitions = self.traces // PARTITION_ROWS + 1

    def close(self) -> None:
        """Let the files go."""
        self._duck.close()

    def remove_duplicates(self) -> int:
        """Mark every example that reads like an earlier one; returns how many."""
        for part in range(self._partitions):
            self._find_alike("key", f"hash(key) % {self._partitions} = {part}")
            self._duck.execute(f"INSERT INTO removed SELECT row, trace_id, 'duplicate', kept_id"
                               f" FROM ({_GONE})")  # fmt: skip
        return self._one("SELECT count(*) FROM removed WHERE reason = 'duplicate'")

    def remove_near_duplicates(self, bands: int) -> int:
        """Mark every example that shares a band with an earlier one; returns how many.

        Duplicates that were marked before do not count. Of a chain of examples, each like the
        next, only the first stays.
        """
        self._duck.execute("CREATE TABLE near AS SELECT *, 0::UBIGINT AS kept FROM removed LIMIT 0")
        for band, part in product(map(_band, range(bands)), range(self._partitions)):
            self._find_alike(band, f"{band} % {self._partitions} = {part}")
            self._duck.execute(f"INSERT INTO near SELECT row, trace_id, 'near_duplicate', kept_id,"
                               f" kept FROM ({_GONE})")  # fmt: skip
        self._duck.execute(
            "INSERT INTO removed SELECT row, any_value(trace_id), any_value(reason),"
            " arg_min(kept_id, kept) FROM near GROUP BY row"
        )
        return self._one("SELECT count(*) FROM removed WHERE reason = 'near_duplicate'")

    def _find_alike(self, key: str, condition: str) -> None:
        """Fill `part` with a slice of the examples that are left, `alike` with what repeats in it.

        Equal keys fall into the same slice, so that a slice is all that is ever compared.
        """
        self._duck.execute(
            f"CREATE OR REPLACE TABLE part AS SELECT row, trace_id, {key} AS key"
            f" FROM outcomes ANTI JOIN removed USING (row) WHERE outcome IN {SPLITS}"
            f" AND {condition}"
        )
        self._duck.execute(
            "CREATE OR REPLACE TABLE alike AS"
            " SELECT key, min(row) AS kept FROM part GROUP BY key HAVING count(*) > 1"
        )

    def removed(self) -> Iterator[Removed]:
        """Every example that goes, in the dataset's order."""
        # A cursor of its own: other statements would end this one.
        found = self._duck.cursor().execute("SELECT * FROM removed ORDER BY row")
        while rows := found.fetchmany(FETCH_ROWS):
            yield from map(Removed._make, rows)

    def outcomes(self) -> dict[str, int]:
        """How many traces ended how, after what was removed."""
        found = self._duck.execute(
            """
            SELECT coalesce(removed.reason, outcome), count(*)
            FROM outcomes LEFT JOIN removed USING (row) GROUP BY 1 ORDER BY 1
            """
        ).fetchall()
        return {str(name): int(count) for name, count in found}

    def flagged(self, flag: int) -> int:
        """How many of the examples that stay carry a flag."""
        return self._one(
            f"SELECT count(*) FROM outcomes ANTI JOIN removed USING (row)"
            f" WHERE outcome IN {SPLITS} AND (flags & {flag}) > 0"
        )

    def lengths(self, name: str) -> list[tuple[int, int]]:
        """(length, how many examples that stay have it), by length; empty where not measured."""
        found = self._duck.execute(
            f"SELECT {name}, count(*) FROM outcomes ANTI JOIN removed USING (row)"
            f" WHERE outcome IN {SPLITS} AND {name} IS NOT NULL GROUP BY 1 ORDER BY 1"
        ).fetchall()
        return [(int(length), int(count)) for length, count in found]

    def _one(self, statement: str) -> int:
        row: Any = self._duck.execute(statement).fetchone()
        return int(row[0])


def read_outcomes(table: Path) -> tuple[list[int], list[str]]:
    """Read rows and outcomes of one shard's table, in order."""
    with pyarrow.parquet.ParquetFile(table) as file:
        columns = file.read(columns=["row", "outcome"], use_threads=False)
    return columns["row"].to_pylist(), columns["outcome"].to_pylist()
