"""Migrations create the tables once, with concurrent starts too, and convert old files."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from tests.postgres import Postgres
from tuneloop.errors import SpecError
from tuneloop.store.db import engine, migrate
from tuneloop.store.db.codec import fast_trace
from tuneloop.store.db.database import Database
from tuneloop.store.db.tables import metadata
from tuneloop.traces.schema import prompt_key

Make = Callable[..., dict[str, Any]]


@pytest.fixture(params=["sqlite", "postgresql"])
def virgin_url(request: pytest.FixtureRequest, sqlite_file: Path) -> str:
    """URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{sqlite_file}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.new_database())


def test_the_migrations_make_what_statements_are_written_for(virgin_url: str) -> None:
    Database(virgin_url).close()
    opened = engine.open_engine(engine.parse_url(virgin_url))
    with opened.connect() as connection:
        on_postgres = connection.dialect.name == "postgresql"

        def is_here(item: object, name: str | None, *_: object) -> bool:
            return on_postgres or name != "ix_traces_meta"  # Alembic does not support `ddl_if`.

        options = {"compare_type": True, "include_object": is_here}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == migrate.HEAD
    opened.dispose()


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate._MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


def test_many_that_start_at_once_migrate_once(virgin_url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            Database(virgin_url).close()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_database_of_a_newer_tuneloop_is_left_alone(virgin_url: str) -> None:
    Database(virgin_url).close()
    opened = engine.open_engine(engine.parse_url(virgin_url))
    with engine.writing(opened) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    opened.dispose()
    with pytest.raises(SpecError, match=r"revision 9999, expected 0002 or earlier; use the newer"):
        Database(virgin_url)


OLD = """
CREATE TABLE traces (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL, trace_version TEXT NOT NULL, payload TEXT NOT NULL, meta TEXT);
CREATE INDEX ix_traces_created_at ON traces (created_at);
CREATE TABLE idempotency ("key" TEXT NOT NULL PRIMARY KEY, body_sha256 TEXT NOT NULL,
    count INTEGER NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE scores (seq INTEGER NOT NULL PRIMARY KEY,
    trace_id TEXT NOT NULL REFERENCES traces (id) ON DELETE CASCADE, criteria TEXT NOT NULL,
    score FLOAT NOT NULL, details TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE INDEX ix_scores_trace_id ON scores (trace_id);
"""
"""Create the tables of the first version, which had no migrations."""


def test_a_file_from_before_migrations_is_taken_over(sqlite_file: Path, make_trace: Make) -> None:
    trace = make_trace(1, meta={"source": "old", "x": 1.5})
    new = fast_trace(json.dumps(trace).encode())
    assert new is not None
    trace_id = "00000000-0000-4000-8000-000000000007"
    with sqlite3.connect(sqlite_file) as old:
        old.executescript(OLD)
        row = (7, trace_id, 1_000_000, "1.0", new.payload, new.meta)
        old.execute("INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?)", row)
        old.execute("INSERT INTO idempotency VALUES ('k', 'd', 1, 1000000)")
        old.execute("INSERT INTO scores VALUES (1, ?, 'baseline', 2.5, '{}', 5)", [trace_id])
    old.close()
    database = Database(f"sqlite:///{sqlite_file}")
    (listed,) = database.list(10, source="old")
    assert listed.created_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    found = database.get(trace_id)
    assert found is not None
    assert found.trace.model_dump() == trace
    assert [one.score for one in database.scores.of_trace(trace_id, 9)] == [2.5]
    (stored,) = database.insert_batch([new], now=datetime(2026, 1, 1, tzinfo=UTC))
    assert [one.id for one in database.list(10)] == [stored.id, trace_id]
    assert database.delete(trace_id)
    assert database.scores.of_trace(trace_id, 9) == []
    database.close()


def test_earlier_traces_get_the_key_of_their_prompt(virgin_url: str, make_trace: Make) -> None:
    opened = engine.open_engine(engine.parse_url(virgin_url))
    ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]
    with engine.writing(opened) as connection:
        migrate._run(connection, None, "test", "0001")
        for n, trace_id in enumerate(ids):
            new = fast_trace(json.dumps(make_trace(n, prompt="é🟡\n" * (n + 1))).encode())
            assert new is not None
            values = {"id": trace_id, "payload": new.payload, "meta": new.meta}
            on_postgres = connection.dialect.name == "postgresql"
            time = "to_timestamp(1)" if on_postgres else "1000000"
            cast = "CAST(:meta AS jsonb)" if on_postgres else ":meta"
            connection.execute(
                text(
                    "INSERT INTO traces (id, created_at, trace_version, meta, payload)"
                    f" VALUES (:id, {time}, '1.0', {cast}, :payload)"
                ),
                values,
            )
        score = f"INSERT INTO scores VALUES (1, '{ids[0]}', 'baseline', 2.5, '{{}}', {time})"
        connection.execute(text(score))
        connection.execute(text(f"DELETE FROM traces WHERE id = '{ids[2]}'"))
    opened.dispose()
    database = Database(virgin_url)
    with database._engine.begin() as connection:
        keys = connection.execute(text("SELECT seq, prompt_key FROM traces ORDER BY seq")).all()
    assert [tuple(row) for row in keys] == [
        (n + 1, prompt_key("é🟡\n" * (n + 1))) for n in range(2)
    ]
    assert [one.score for one in database.scores.of_trace(ids[0], 9)] == [2.5]
    new = fast_trace(json.dumps(make_trace()).encode())
    assert new is not None
    database.insert_batch([new], now=datetime(2026, 1, 1, tzinfo=UTC))
    assert database.list(1)[0].seq == 4  # the number of the deleted trace is not used again
    assert database.delete(ids[0])
    assert database.scores.of_trace(ids[0], 9) == []
    database.close()
