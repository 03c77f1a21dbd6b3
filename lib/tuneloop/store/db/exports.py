"""Traces with their payloads, newest first, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Engine, LargeBinary, Select, cast, func, select, tuple_

from tuneloop.store.db import engine
from tuneloop.store.db.cursor import Cursor
from tuneloop.store.db.source import has_source
from tuneloop.store.db.tables import traces

WINDOW_ROWS = 1000
"""Traces of which the sizes are read at once."""
BLOCK_BYTES = 1 << 18
"""Size of the payloads of a block, in characters of UTF-8; a larger trace is a block of its own."""
PLACE = tuple_(traces.c.created_at, traces.c.seq)
"""Position of a trace in the list."""
NEWEST_FIRST = (traces.c.created_at.desc(), traces.c.seq.desc())


class Exported(NamedTuple):
    """One trace as it is stored."""

    id: str
    created_at: datetime
    trace_version: str
    seq: int
    payload: str
    """The trace as canonical JSON."""


def payload_bytes(dialect: str) -> ColumnElement[int]:
    """Return the size of a payload in bytes, as a column.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    if dialect == "postgresql":
        return func.octet_length(traces.c.payload)
    return func.length(cast(traces.c.payload, LargeBinary))


def select_newest(
    columns: Sequence[ColumnElement[Any]],
    dialect: str,
    *,
    before: Cursor | None = None,
    source: str | None = None,
    created_after: datetime | None = None,
) -> Select[Any]:
    """Select traces, newest first.

    Args:
        columns: columns to select.
        dialect: SQLAlchemy's name of the database.
        before: only traces older than this position.
        source: only traces with this `meta.source`.
        created_after: only traces created after this time.
    """
    statement = select(*columns).order_by(*NEWEST_FIRST)
    if before is not None:
        statement = statement.where(PLACE < before)
    if source is not None:
        statement = statement.where(has_source(source, dialect))
    if created_after is not None:
        statement = statement.where(traces.c.created_at > created_after)
    return statement


class Exports:
    """Reads many traces with their payloads."""

    def __init__(self, pool: Engine, place: str) -> None:
        """Use an open database; `place` names it in messages."""
        self._engine, self._place = pool, place

    def iter_blocks(
        self,
        *,
        before: Cursor | None = None,
        source: str | None = None,
        created_after: datetime | None = None,
    ) -> Iterator[list[Exported]]:
        """Yield traces in blocks; no connection is in use between two blocks.

        A trace that is deleted meanwhile may be missing, and one that arrives is not there.

        Args:
            before: only traces older than this position.
            source: only traces with this `meta.source`.
            created_after: only traces created after this time.
        """
        dialect = self._engine.dialect.name
        columns = [traces.c.seq, traces.c.created_at, payload_bytes(dialect).label("size")]
        while True:
            statement = select_newest(
                columns, dialect, before=before, source=source, created_after=created_after
            )
            with engine.sentences(self._place), self._engine.begin() as connection:
                window = connection.execute(statement.limit(WINDOW_ROWS)).all()
            for numbers in _groups((row.seq, row.size) for row in window):
                yield self._read(numbers)
            if len(window) < WINDOW_ROWS:
                return
            before = (window[-1].created_at, window[-1].seq)

    def _read(self, numbers: Sequence[int]) -> list[Exported]:
        columns = (traces.c[name] for name in Exported._fields)
        statement = select(*columns).where(traces.c.seq.in_(numbers)).order_by(*NEWEST_FIRST)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return [Exported(*row) for row in connection.execute(statement)]


def _groups(sizes: Iterator[tuple[int, int]]) -> Iterator[list[int]]:
    """Group numbers in order, so that the sizes of a group do not exceed a block."""
    group: list[int] = []
    total = 0
    for number, size in sizes:
        if group and total + size > BLOCK_BYTES:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group
