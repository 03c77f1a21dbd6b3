"""Connections to SQLite and PostgreSQL, and error messages for their failures.

All differences between the two databases are in this module, except those in statements. No
error message contains a password.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from tuneloop.errors import (
    DataError,
    PermissionDenied,
    SpecError,
    Transient,
    TuneloopError,
    Unavailable,
)
from tuneloop.storage import paths
from tuneloop.store.db.select import register_functions

BUSY_TIMEOUT_SECONDS = 30
"""Seconds that a writer waits for another writer, and that a request waits for a connection."""
SQLITE_CONNECTIONS = 48
"""Connections to SQLite. There are 40 request threads, so no request waits for a connection."""
POSTGRES_CONNECTIONS = 20
"""Connections per replica; PostgreSQL allows 100 by default."""
CONNECT_TIMEOUT_SECONDS = 10
PROBE_CONNECT_SECONDS = 2

_WRITE = "tuneloop_write"


def parse_url(text: str) -> URL:
    """Read a database URL.

    Returns:
        SQLAlchemy's URL with a driver: `sqlite:////absolute/file` or `postgresql+psycopg://...`.

    Raises:
        SpecError: the URL has another form. The message never quotes the URL.
    """
    expected = "expected sqlite:///FILE or postgresql://USER@HOST/NAME; fix the URL"
    encode = "write an @ in a password as %40"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as e:
        raise SpecError(f"database URL: cannot be parsed, {expected}; {encode}") from e
    if url.drivername != "sqlite" and "@" in f"{url.host}{url.database}":
        # Part of the password would otherwise be shown as the host.
        raise SpecError(f"database URL: has a second @, {expected}; {encode}")
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or url.database in (None, "", ":memory:"):
        raise SpecError(f"database URL: found {url.drivername} without a file, {expected}")
    return url.set(database=paths.absolute(str(url.database)))


def place_of(url: URL) -> str:
    """Return the database's name in error messages: the file, or the URL without its password."""
    if url.drivername == "sqlite":
        return str(url.database)
    return URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database
    ).render_as_string()


def open_engine(url: URL) -> Engine:
    """Create the pool of connections without connecting."""
    if url.drivername == "sqlite":
        return _sqlite(url)
    return create_engine(
        url,
        pool_size=POSTGRES_CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        pool_pre_ping=True,  # Otherwise the first requests after a server restart would fail.
        json_serializer=lambda text: text,  # Bound values are already JSON text.
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "tuneloop",
            "options": "-c timezone=UTC",
        },
        hide_parameters=True,  # Otherwise errors would write whole traces to logs.
    )


def open_probe(url: URL) -> Engine:
    """Create an engine whose connections are used once, for probes."""
    if url.drivername == "sqlite":
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 1})
        event.listen(engine, "connect", _leave_begin_to_us)
        return engine
    return create_engine(
        url,
        poolclass=NullPool,
        connect_args={"connect_timeout": PROBE_CONNECT_SECONDS, "application_name": "tuneloop"},
        hide_parameters=True,
    )


def _leave_begin_to_us(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None


def check_writes(connection: Connection) -> None:
    """Check that a transaction on PostgreSQL can be written and committed.

    On SQLite this would wait for the writer, so that only the disk is checked there.
    """
    if connection.dialect.name == "postgresql":
        # A message in the log of changes, which nobody reads. It fails on a read-only standby and
        # on a full disk.
        connection.execute(select(func.pg_logical_emit_message(True, "tuneloop", "ready")))


def _sqlite(url: URL) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=SQLITE_CONNECTIONS,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # `_begin` starts transactions instead of the driver.
    for attempt in _until_free():
        with attempt:
            # With WAL, builds can read while batches are written.
            connection.execute("PRAGMA journal_mode=WAL")
    # Batches answered with 201 must survive a power failure. FULL costs one fsync for up to 1000
    # traces; NORMAL would avoid it but could lose the last batches.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")  # Deleting a trace deletes its scores.
    register_functions(connection)


def _until_free() -> Retrying:
    """Retry while another process switches a new file to WAL, since SQLite does not wait for it."""
    return Retrying(
        retry=retry_if_exception(
            lambda e: getattr(e, "sqlite_errorname", "").startswith("SQLITE_BUSY")
        ),
        wait=wait_random(0.005, 0.05),
        stop=stop_after_delay(BUSY_TIMEOUT_SECONDS),
        reraise=True,
    )


def _begin(connection: Connection) -> None:
    """Begin a transaction.

    Writers use BEGIN IMMEDIATE and so wait for each other. A transaction that reads first and then
    writes would fail if another one has written in between.
    """
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes."""
    with engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


@contextlib.contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a transaction whose statements all see the same snapshot; it is rolled back at exit."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":  # SQLite's transactions always use a snapshot.
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection
        connection.rollback()


@contextlib.contextmanager
def sentences(place: str) -> Iterator[None]:
    """Convert database errors to TuneloopErrors; errors caused by wrong statements pass through."""
    try:
        yield
    except PoolTimeout as e:
        raise Transient(
            f"{place}: all connections were busy for {BUSY_TIMEOUT_SECONDS} s; try again later"
        ) from e
    except (DatabaseError, InterfaceError) as e:
        raise _sentence_of(e, place) from e
    except PermissionError as e:
        raise PermissionDenied(f"{place}: {e.strerror}; grant access to it") from e
    except (FileExistsError, NotADirectoryError) as e:
        raise Unavailable(
            f"{place}: the parent folder is a file, expected a folder; use another --database path"
        ) from e


def _sentence_of(error: DatabaseError | InterfaceError, place: str) -> Exception:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_sentence(error, place)
    state = getattr(error.orig, "sqlstate", None) or ""
    for prefix, kind, words in _POSTGRES:
        if state.startswith(prefix):
            return kind(f"{place}: {words}")
    if state:
        return error
    return _unconnected(error, place)


def _sqlite_sentence(error: DatabaseError | InterfaceError, place: str) -> Exception:
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    for prefixes, kind, words in _SQLITE:
        if name.startswith(prefixes):
            return kind(f"{place}: {words}")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return Unavailable(
            f"{place}: cannot be opened ({error.orig}), expected a file in a folder that this user"
            " can write to; use another --database path"
        )
    return error


_SQLITE: tuple[tuple[tuple[str, ...], type[TuneloopError], str], ...] = (
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        Transient,
        f"locked by another writer for {BUSY_TIMEOUT_SECONDS} s; try again later",
    ),
    (("SQLITE_NOTADB",), DataError, "not an SQLite database; use another --database path"),
    (("SQLITE_CORRUPT",), DataError, "the database is damaged; restore it from a backup"),
    (
        ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"),
        PermissionDenied,
        "cannot be written; grant this user access to the file",
    ),
    (("SQLITE_FULL",), Unavailable, "the disk is full; free some space, then try again"),
)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES: tuple[tuple[str, type[TuneloopError], str], ...] = (
    ("08", Transient, "the connection was lost; try again"),
    ("25006", Transient, "the server is a read-only standby; try again after failover"),
    ("28", PermissionDenied, "the server refused this user or password; fix the database URL"),
    ("3D000", Unavailable, "there is no such database; create it"),
    ("40", Transient, "the transaction conflicted with another one; try again"),
    ("42501", PermissionDenied, "this user lacks rights; grant it rights on the schema"),
    ("53100", Unavailable, "the server's disk is full; free some space, then try again"),
    ("53", Transient, "the server lacks resources for this request; try again later"),
    ("55P03", Transient, "a lock could not be acquired; try again later"),
    ("57", Transient, "the server is stopping or starting; try again"),
    ("XX001", DataError, "the database is damaged; restore it from a backup"),
)


def _unconnected(error: DatabaseError | InterfaceError, place: str) -> Exception:
    """Convert an error without SQLSTATE: there is no connection, or it was lost."""
    said = str(error.orig).lower()
    if "password authentication failed" in said or "no pg_hba.conf entry" in said:
        return PermissionDenied(
            f"{place}: the server refused this user or password; fix the database URL"
        )
    if 'database "' in said and "does not exist" in said:
        return Unavailable(f"{place}: there is no such database; create it")
    if getattr(error, "connection_invalidated", False) or "closed" in said or "lost" in said:
        return Transient(f"{place}: the connection was lost; try again")
    return Unavailable(f"{place}: cannot be reached; start PostgreSQL or fix the database URL")
