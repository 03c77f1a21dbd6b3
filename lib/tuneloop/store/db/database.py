"""All statements on the store's tables except selection, the same for SQLite and PostgreSQL.

A batch and the row with its idempotency key are one transaction. Times never decrease across the
store, so a clock that steps back does not change what is newest. If two writers got the same time,
the order of arrival decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import uuid_utils
from pydantic_core import from_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    func,
    insert,
    select,
)

from tuneloop.datasets.schema import BuildRequest, Selection
from tuneloop.store.db import engine, migrate
from tuneloop.store.db.candidates import Members
from tuneloop.store.db.codec import NewTrace
from tuneloop.store.db.cursor import Cursor
from tuneloop.store.db.exports import (
    NEWEST_FIRST,
    PLACE,
    Exports,
    payload_bytes,
    select_newest,
)
from tuneloop.store.db.idempotency import remember
from tuneloop.store.db.kept import Kept
from tuneloop.store.db.labels import Labels
from tuneloop.store.db.scores import Scores
from tuneloop.store.db.search import Budget, Query, SearchPage, SearchResult
from tuneloop.store.db.select import run_selection
from tuneloop.store.db.source import has_source
from tuneloop.store.db.tables import traces
from tuneloop.store.memory import LARGE_JSON_BYTES, decoding
from tuneloop.traces.schema import ReasoningTrace, StoredTrace

SEARCH_WINDOW_ROWS = 1000
"""Rows read in one transaction of a search."""

_NAMESPACE = uuid_utils.UUID("0f5d3a52-8d0e-5c0a-9d6e-3b1f1f1c7a11")
_MICROSECOND = timedelta(microseconds=1)


class Stored(NamedTuple):
    """Id and time of a trace that was stored."""

    id: str
    created_at: datetime


class Payload(NamedTuple):
    """A trace as canonical JSON."""

    created_at: datetime
    payload: str

    def decoded(self, trace_id: str) -> StoredTrace:
        """Decode the trace."""
        return StoredTrace(
            id=uuid.UUID(trace_id),
            created_at=self.created_at,
            trace=ReasoningTrace.model_validate(from_json(self.payload)),
        )


class Listed(NamedTuple):
    """One entry of a list of traces."""

    id: str
    created_at: datetime
    trace_version: str
    seq: int


class Database:
    """The trace store in one database."""

    def __init__(self, url: str) -> None:
        """Open the database and migrate its tables.

        Args:
            url: `sqlite:///FILE`, which is created if it does not exist, or
                `postgresql://USER@HOST/NAME`.

        Raises:
            SpecError: the URL has another form, or a newer tuneloop migrated the tables.
            Unavailable: the file cannot be opened, or the server cannot be reached.
            PermissionDenied: this user lacks the necessary rights.
            DataError: the file is not a database.
        """
        parsed = engine.parse_url(url)
        self.place = engine.place_of(parsed)
        self.folder = Path(self.place).parent if parsed.drivername == "sqlite" else None
        """Folder of the file, if the database is one."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._sentences())
            self._engine = engine.open_engine(parsed)
            undo.callback(self._engine.dispose)
            self._probe = engine.open_probe(parsed)
            migrate.upgrade(self._engine, self.place)
            self.labels = Labels(self._engine, self.place)
            self.scores = Scores(self._engine, self.place)
            self.exports = Exports(self._engine, self.place)
            undo.pop_all()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def insert_batch(
        self, batch: Sequence[NewTrace], *, now: datetime, key: str | None = None
    ) -> list[Stored]:
        """Store traces, all or none.

        Args:
            batch: at least one trace.
            now: time of the first trace; each further trace is one microsecond later.
            key: idempotency key. The ids are then derived from it, and repeating the same key and
                traces stores only those that were deleted since.

        Returns:
            Id and time of each trace, in order.

        Raises:
            IdempotencyConflict: the key was used for other traces.
        """
        ids = _ids(key, len(batch))
        with self._sentences(), engine.writing(self._engine) as connection:
            first = _first_time(connection, now)
            known: dict[str, datetime] = {}
            if key is not None and not _is_new(connection, key, batch, first):
                there = select(traces.c.id, traces.c.created_at).where(traces.c.id.in_(ids))
                known = {row.id: row.created_at for row in connection.execute(there)}
            stored = [
                Stored(one, known.get(one, first + n * _MICROSECOND)) for n, one in enumerate(ids)
            ]
            rows = [
                {"id": one.id, "created_at": one.created_at, **trace._asdict()}
                for one, trace in zip(stored, batch, strict=True)
                if one.id not in known
            ]
            if rows:
                connection.execute(insert(traces), rows)
        return stored

    @contextlib.contextmanager
    def reading(self, trace_id: str) -> Iterator[Payload | None]:
        """Yield a trace as it is stored, or None if it does not exist.

        A large trace is in memory while the block runs; all other threads with a large one wait.
        """
        column, size = traces.c.payload, payload_bytes(self._engine.dialect.name)
        small = case((size <= LARGE_JSON_BYTES, column), else_=None).label("payload")
        found = self._payload(trace_id, size.label("size"), small)
        if found is None or found.payload is not None:
            yield found and Payload(found.created_at, found.payload)
            return
        with decoding(found.size):
            whole = self._payload(trace_id, column)
            yield whole and Payload(whole.created_at, whole.payload)

    def _payload(self, trace_id: str, *columns: ColumnElement[Any]) -> Row[Any] | None:
        statement = select(traces.c.created_at, *columns).where(traces.c.id == trace_id)
        with self._sentences(), self._engine.begin() as connection:
            return connection.execute(statement).one_or_none()

    def get(self, trace_id: str) -> StoredTrace | None:
        """Return a trace, or None if it does not exist."""
        with self.reading(trace_id) as found:
            return found and found.decoded(trace_id)

    def list(
        self,
        limit: int,
        offset: int = 0,
        *,
        before: Cursor | None = None,
        source: str | None = None,
        created_after: datetime | None = None,
    ) -> list[Listed]:
        """List one page of traces, newest first.

        Args:
            limit: maximum number of rows.
            offset: rows to skip, from the newest.
            before: list only traces older than this position.
            source: list only traces with this `meta.source`.
            created_after: list only traces created after this time.
        """
        statement = select_newest(
            [traces.c[name] for name in Listed._fields],
            self._engine.dialect.name,
            before=before,
            source=source,
            created_after=created_after,
        )
        statement = statement.limit(limit).offset(offset)
        with self._sentences(), self._engine.begin() as connection:
            return [Listed(*row) for row in connection.execute(statement)]

    def search(
        self,
        text: str,
        *,
        limit: int,
        before: Cursor | None = None,
        source: str | None = None,
        budget: Budget,
    ) -> SearchPage:
        """Search traces for a text, newest first, until the budget is spent.

        Args:
            text: matched in prompt, steps and final answer, ignoring case. The id of a trace also
                finds that trace, as the first result. Empty matches every trace.
            limit: maximum number of results.
            before: search only traces older than this position.
            source: search only traces with this `meta.source`.
            budget: rows and seconds after which the search stops. The returned page has the
                position to continue from.
        """
        query, results, scanned = Query(text), list[SearchResult](), 0
        of_source = [] if source is None else [has_source(source, self._engine.dialect.name)]
        deadline = time.monotonic() + budget.seconds
        if before is None and query.id is not None:
            named = self._window(traces.c.id == query.id, *of_source)
            results += filter(None, map(query.match, named))
        with contextlib.closing(self._newest_first(before, *of_source)) as rows:
            for row in rows:
                is_spent = scanned == budget.rows or time.monotonic() > deadline
                if scanned and (is_spent or len(results) >= limit):
                    return SearchPage(results, scanned, before)
                before = (row.created_at, row.seq)
                scanned += 1
                if row.id != query.id and (result := query.match(row)):
                    results.append(result)
        return SearchPage(results, scanned, None)

    def _newest_first(
        self, before: Cursor | None, *conditions: ColumnElement[bool]
    ) -> Generator[Any]:
        """Yield all rows older than a position; each transaction covers at most one window."""
        while True:
            count, older = 0, [] if before is None else [PLACE < before]
            for row in self._window(*conditions, *older):
                before = (row.created_at, row.seq)
                count += 1
                yield row
            if count < SEARCH_WINDOW_ROWS:
                return

    def _window(self, *conditions: ColumnElement[bool]) -> Generator[Any]:
        statement = (
            select(traces.c.seq, traces.c.id, traces.c.created_at, traces.c.payload)
            .where(*conditions)
            .order_by(*NEWEST_FIRST)
            .limit(SEARCH_WINDOW_ROWS)
        )
        # A trace can have many megabytes, so only a few are in memory and not a whole window.
        few_at_a_time = {"yield_per": 20}
        with self._sentences(), self._engine.begin() as connection:
            with connection.execute(statement, execution_options=few_at_a_time) as result:
                yield from result

    def delete(self, trace_id: str) -> bool:
        """Delete a trace, its scores and its labels; returns False if there is no such trace."""
        with self._sentences(), engine.writing(self._engine) as connection:
            done = connection.execute(delete(traces).where(traces.c.id == trace_id))
            return done.rowcount > 0

    def ping(self) -> None:
        """Check that the database answers and can be written, on a connection of its own.

        The connections of requests may all be in use.
        """
        with self._sentences(), self._probe.begin() as connection:
            connection.execute(select(traces.c.seq).limit(1)).all()
            engine.check_writes(connection)

    def count(self) -> int:
        """Count all traces."""
        with self._sentences(), self._engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(traces)) or 0

    @contextlib.contextmanager
    def selection(
        self,
        request: BuildRequest,
        seed: int,
        members: Members = (),
        kept: Kept | None = None,
    ) -> Iterator[Selection]:
        """Select the traces of a dataset from a snapshot; read the rows within the context.

        Args:
            request: what to select.
            seed: seed of a random selection.
            members: the rows of the datasets that the request's rules name.
            kept: what a preview of the request has selected; None selects now.
        """
        with self._sentences(), engine.snapshot(self._engine) as connection:
            yield run_selection(connection, request, seed, members, kept)

    def _sentences(self) -> contextlib.AbstractContextManager[None]:
        return engine.sentences(self.place)


def _ids(key: str | None, count: int) -> list[str]:
    """Create ids: derived from the key, or time-ordered ones, which suit indexes, without a key."""
    if key is None:
        return [str(uuid_utils.uuid7()) for _ in range(count)]
    return [str(uuid_utils.uuid5(_NAMESPACE, f"{key}/{n}")) for n in range(count)]


def _first_time(connection: Connection, now: datetime) -> datetime:
    """Return `now`, or the time just after the newest trace if the clock has stepped back."""
    newest = connection.scalar(select(func.max(traces.c.created_at)))
    return now if newest is None else max(now, newest + _MICROSECOND)


def _is_new(connection: Connection, key: str, batch: Sequence[NewTrace], first: datetime) -> bool:
    sha256 = _digest(batch)
    return remember(connection, key, sha256, len(batch), first, kind="traces") is None


def _digest(batch: Sequence[NewTrace]) -> str:
    sha256 = hashlib.sha256()
    for trace in batch:  # One by one, because a batch may have 64 MiB.
        sha256.update(f"{trace.payload}\n".encode())
    return sha256.hexdigest()
