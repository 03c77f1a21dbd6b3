"""The store's tables and every statement on them but selection.

One rule: a batch is one transaction, whole or not at all, together with the row that remembers its
idempotency key. Times rise strictly through the whole store, so "newest" is never a matter of
chance.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from tuneloop import jsonl
from tuneloop.datasets.schema import BuildRequest, Selection
from tuneloop.datasets.select import (
    has_value,
    micros,
    moment,
    register_functions,
    run_selection,
)
from tuneloop.errors import (
    DataError,
    PermissionDenied,
    SpecError,
    Transient,
    TuneloopError,
    Unavailable,
)
from tuneloop.traces.schema import ReasoningTrace, StoredTrace

BUSY_TIMEOUT_SECONDS = 30
"""How long a writer waits for another before the request fails."""
MAX_CONNECTIONS = 48
"""More than the 40 threads in which the server runs requests, so none ever waits for one."""

_NAMESPACE = uuid.UUID("0f5d3a52-8d0e-5c0a-9d6e-3b1f1f1c7a11")
_WRITE = "tuneloop_write"

metadata = MetaData()
traces = Table(
    "traces",
    metadata,
    Column("seq", Integer, primary_key=True),  # the order of arrival; never used twice
    Column("id", Text, nullable=False, unique=True),
    Column("created_at", Integer, nullable=False, index=True),  # microseconds since 1970, UTC
    Column("trace_version", Text, nullable=False),
    Column("payload", Text, nullable=False),  # the whole trace, canonical JSON
    Column("meta", Text),  # payload's meta once more, so that filters parse nothing else
    sqlite_autoincrement=True,
)
idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),  # of the first trace; the others follow by 1 us
)

scores = Table(
    "scores",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column(
        "trace_id", Text, ForeignKey("traces.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("criteria", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("details", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
)


class IdempotencyConflict(DataError):
    """The key was used for other traces."""


class Stored(NamedTuple):
    """One trace as it was put down."""

    id: str
    created_at: datetime


class Listed(NamedTuple):
    """One trace of a list."""

    id: str
    created_at: datetime
    trace_version: str


class Database:
    """The trace store in one SQLite file."""

    def __init__(self, url: str) -> None:
        """Open the database, making file and tables where there are none.

        Args:
            url: `sqlite:///FILE`.

        Raises:
            SpecError: the URL is of another kind.
            Unavailable: the file cannot be opened.
            PermissionDenied: this user may not open it.
            DataError: the file is something else than a database.
        """
        self.path = _file_of(url)
        with self._sentences():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = _make_engine(self.path)
            with self._writing() as connection:
                metadata.create_all(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def insert_batch(
        self, batch: Sequence[ReasoningTrace], *, now: datetime, key: str | None = None
    ) -> list[Stored]:
        """Store traces, all or none.

        Args:
            batch: at least one trace.
            now: time of the first one; the others follow by a microsecond each.
            key: idempotency key. Ids are then a function of it, and the same key with the same
                traces gives the first reply again.

        Returns:
            Id and time of each, in order.

        Raises:
            IdempotencyConflict: the key was used for other traces.
        """
        payloads = [jsonl.dump_line(trace.model_dump()) for trace in batch]
        digest = hashlib.sha256(b"".join(payloads)).hexdigest()
        ids = [str(uuid.uuid4() if key is None else _derived_id(key, n)) for n in range(len(batch))]
        with self._sentences(), self._writing() as connection:
            first = None if key is None else _remembered(connection, key, digest)
            if first is None:
                first = _first_time(connection, now)
                rows = [
                    _row(first + n, ids[n], trace, payloads[n]) for n, trace in enumerate(batch)
                ]
                connection.execute(insert(traces), rows)
                if key is not None:
                    _remember(connection, key, digest, len(batch), first)
        return [Stored(trace_id, moment(first + n)) for n, trace_id in enumerate(ids)]

    def get(self, trace_id: str) -> StoredTrace | None:
        """One trace, None if there is none."""
        statement = select(traces.c.created_at, traces.c.payload).where(traces.c.id == trace_id)
        with self._sentences(), self._engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        return StoredTrace(
            id=uuid.UUID(trace_id),
            created_at=moment(row.created_at),
            trace=ReasoningTrace.model_validate(from_json(row.payload)),
        )

    def list(
        self,
        limit: int,
        offset: int = 0,
        *,
        before: int | None = None,
        source: str | None = None,
        created_after: datetime | None = None,
    ) -> list[Listed]:
        """A page of traces, newest first.

        Args:
            limit: rows at most.
            offset: rows left out, from the newest.
            before: only traces older than this, in microseconds since 1970.
            source: only traces whose meta.source is this text.
            created_after: only traces newer than this.
        """
        statement = (
            select(traces.c.id, traces.c.created_at, traces.c.trace_version)
            .order_by(traces.c.created_at.desc(), traces.c.seq.desc())
            .limit(limit)
            .offset(offset)
        )
        if before is not None:
            statement = statement.where(traces.c.created_at < before)
        if source is not None:
            statement = statement.where(has_value(traces.c.meta, "source", source))
        if created_after is not None:
            statement = statement.where(traces.c.created_at > micros(created_after))
        with self._sentences(), self._engine.begin() as connection:
            rows = connection.execute(statement).all()
        return [Listed(row.id, moment(row.created_at), row.trace_version) for row in rows]

    def delete(self, trace_id: str) -> bool:
        """Delete a trace and its scores; False if there is none."""
        with self._sentences(), self._writing() as connection:
            done = connection.execute(delete(traces).where(traces.c.id == trace_id))
            return done.rowcount > 0

    def add_score(
        self, trace_id: str, criteria: str, score: float, details: dict[str, Any], *, now: datetime
    ) -> bool:
        """Keep a score of a trace; False if there is no such trace (any more)."""
        values = {
            "trace_id": trace_id,
            "criteria": criteria,
            "score": score,
            "details": jsonl.dump_line(details).decode().rstrip("\n"),
            "created_at": micros(now),
        }
        with self._sentences(), self._writing() as connection:
            known = connection.execute(select(traces.c.seq).where(traces.c.id == trace_id)).first()
            if known is not None:
                connection.execute(insert(scores), [values])
            return known is not None

    def scores(self, trace_id: str) -> Sequence[float]:
        """All scores of a trace, in the order in which they were given."""
        statement = select(scores.c.score).where(scores.c.trace_id == trace_id)
        with self._sentences(), self._engine.begin() as connection:
            return connection.scalars(statement.order_by(scores.c.seq)).all()

    def ping(self) -> None:
        """Return if the database answers."""
        with self._sentences(), self._engine.begin() as connection:
            connection.execute(select(traces.c.seq).limit(1)).all()

    def count(self) -> int:
        """How many traces there are."""
        with self._sentences(), self._engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(traces)) or 0

    @contextlib.contextmanager
    def selection(self, request: BuildRequest, seed: int) -> Iterator[Selection]:
        """Traces for a dataset, as they were at this moment; read them within the context."""
        with self._sentences(), self._engine.connect() as connection:
            yield run_selection(connection, traces, request, seed)
            connection.rollback()  # nothing was written but the temporary table

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.execution_options(**{_WRITE: True}).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as e:
            raise _sentence_of(e, self.path) from e
        except PermissionError as e:
            raise PermissionDenied(f"{self.path}: {e.strerror}; grant access to it") from e
        except (FileExistsError, NotADirectoryError) as e:
            raise Unavailable(
                f"{self.path}: its folder is a file; use another --database path"
            ) from e


def _file_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError as e:
        raise SpecError("database URL: expected sqlite:///FILE; mend the URL") from e
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise SpecError(
            f"database URL: found {parsed.get_backend_name()} without a file this version can use,"
            " expected sqlite:///FILE"
        )
    return Path(str(parsed.database)).absolute()


def _make_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        hide_parameters=True,  # else an error would carry whole traces into logs
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # `_begin` says BEGIN, not the driver
    connection.execute("PRAGMA journal_mode=WAL")  # builds read while batches are written
    # A reply 201 has to survive a power cut: one fsync for up to 1000 traces. NORMAL would save it
    # and could lose the last batches.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")  # a trace takes its scores along
    register_functions(connection)


def _begin(connection: Connection) -> None:
    """Writers queue up at BEGIN: a reader that turns writer would fail when another was faster."""
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _derived_id(key: str, index: int) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{key}/{index}")


def _first_time(connection: Connection, now: datetime) -> int:
    """Now, or just after the newest trace where the clock stands still or steps back."""
    newest = connection.scalar(select(func.max(traces.c.created_at)))
    return micros(now) if newest is None else max(micros(now), newest + 1)


def _row(created_at: int, trace_id: str, trace: ReasoningTrace, payload: bytes) -> dict[str, Any]:
    meta = None if trace.meta is None else jsonl.dump_line(trace.meta).decode().rstrip("\n")
    return {
        "id": trace_id,
        "created_at": created_at,
        "trace_version": trace.trace_version,
        "payload": payload.decode().rstrip("\n"),
        "meta": meta,
    }


def _remembered(connection: Connection, key: str, digest: str) -> int | None:
    """Time of the first trace that was stored under the key."""
    row = connection.execute(select(idempotency).where(idempotency.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != digest:
        raise IdempotencyConflict(
            f"Idempotency-Key {key!r} was used before for {row.count} other traces; use another"
            " key for another body"
        )
    first: int = row.created_at
    return first


def _remember(connection: Connection, key: str, digest: str, count: int, first: int) -> None:
    values = {"key": key, "body_sha256": digest, "count": count, "created_at": first}
    connection.execute(insert(idempotency), [values])


def _sentence_of(error: DatabaseError, path: Path) -> TuneloopError:
    """What SQLite said, as a sentence; a bug of ours stays what it is."""
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Transient(
            f"{path}: locked by another writer for {BUSY_TIMEOUT_SECONDS} s; try again later"
        )
    if name.startswith("SQLITE_NOTADB"):
        return DataError(f"{path}: not an SQLite database; use another --database path")
    if name.startswith("SQLITE_CORRUPT"):
        return DataError(f"{path}: the database is damaged; restore it from a backup")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return PermissionDenied(f"{path}: cannot be written; grant this user access to the file")
    if name.startswith("SQLITE_FULL"):
        return Unavailable(f"{path}: the disk is full; free some space, then try again")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return Unavailable(
            f"{path}: cannot be opened ({error.orig}); it has to be a file in a folder that this"
            " user may write"
        )
    raise error
