"""Batches, idempotency, order, and the errors for files that are not databases."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from tests.postgres import Postgres, free_port
from tuneloop.errors import DataError, PermissionDenied, SpecError, Transient, Unavailable
from tuneloop.store.db import database as module
from tuneloop.store.db import engine
from tuneloop.store.db.codec import NewTrace, new_trace
from tuneloop.store.db.database import Database, Stored
from tuneloop.store.db.idempotency import IdempotencyConflict
from tuneloop.traces.schema import ReasoningTrace

Make = Callable[..., dict[str, Any]]
NOW = datetime(2026, 11, 22, 11, 22, 10, 546379, tzinfo=UTC)


def batch(make: Make, *numbers: int) -> list[NewTrace]:
    return [new(make(number)) for number in numbers]


def new(trace: dict[str, Any]) -> NewTrace:
    return new_trace(ReasoningTrace.model_validate(trace))


def test_times_rise_by_a_microsecond_in_order(database: Database, make_trace: Make) -> None:
    stored = database.insert_batch(batch(make_trace, 1, 2, 3), now=NOW)
    assert [one.created_at - NOW for one in stored] == [timedelta(microseconds=n) for n in range(3)]
    assert stored[0].created_at.tzinfo is UTC


def test_times_rise_even_where_the_clock_steps_back(database: Database, make_trace: Make) -> None:
    first = database.insert_batch(batch(make_trace, 1, 2), now=NOW)
    second = database.insert_batch(batch(make_trace, 3), now=NOW - timedelta(days=1))
    assert second[0].created_at > first[1].created_at
    assert [one.id for one in database.list(10, 0)] == [second[0].id, first[1].id, first[0].id]


def test_pages_are_newest_first_without_gap_or_repetition(
    database: Database, make_trace: Make
) -> None:
    ids = [one.id for one in database.insert_batch(batch(make_trace, *range(7)), now=NOW)]
    pages = [one.id for offset in (0, 3, 6, 9) for one in database.list(3, offset)]
    assert pages == ids[::-1]
    assert database.count() == 7


def test_get_gives_the_trace_back(database: Database, make_trace: Make) -> None:
    sent = ReasoningTrace.model_validate(make_trace(1, meta={"é": [1.0, 10**30, "🟡"]}))
    (stored,) = database.insert_batch([new_trace(sent)], now=NOW)
    found = database.get(stored.id)
    assert found is not None
    assert (found.trace, found.created_at) == (sent, NOW)
    assert database.get(str(uuid.UUID(int=0))) is None


def test_a_failing_row_stores_none(
    database: Database, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ids", lambda key, count: [str(uuid.uuid4())] * count)
    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        database.insert_batch(batch(make_trace, 1, 2), now=NOW, key="k")
    monkeypatch.undo()
    assert database.count() == 0
    assert len(database.insert_batch(batch(make_trace, 3), now=NOW, key="k")) == 1


def test_the_same_key_gives_the_first_reply_again(database: Database, make_trace: Make) -> None:
    first = database.insert_batch(batch(make_trace, 1, 2), now=NOW, key="k")
    again = database.insert_batch(batch(make_trace, 1, 2), now=NOW + timedelta(1), key="k")
    assert again == first
    assert database.count() == 2
    with pytest.raises(IdempotencyConflict, match="'k' was used before for 2 other traces"):
        database.insert_batch(batch(make_trace, 1), now=NOW, key="k")


def test_a_key_whose_rows_are_gone_stores_them_again(database: Database, make_trace: Make) -> None:
    def post(days: int) -> list[Stored]:
        now = NOW + timedelta(days)
        return database.insert_batch(batch(make_trace, 1, 2, 3), now=now, key="k")

    first = post(0)
    assert database.delete(first[1].id)
    again = post(1)
    assert [one.id for one in again] == [one.id for one in first]
    assert [one.created_at for one in again] == [
        first[0].created_at,
        NOW + timedelta(1, microseconds=1),
        first[2].created_at,
    ]
    for one in again:
        assert database.delete(one.id)
    assert len(post(2)) == database.count() == 3
    assert post(3) == post(2)


def test_ids_follow_from_the_key_in_any_store(
    database: Database, make_trace: Make, new_database_url: Callable[[], str]
) -> None:
    other = Database(new_database_url())
    ours = database.insert_batch(batch(make_trace, 1, 2), now=NOW, key="k")
    theirs = other.insert_batch(batch(make_trace, 1, 2), now=NOW + timedelta(9), key="k")
    other.close()
    assert [one.id for one in ours] == [one.id for one in theirs]
    assert len({one.id for one in ours}) == 2


def test_concurrent_retries_after_a_deletion_store_once(
    database: Database, make_trace: Make
) -> None:
    traces = batch(make_trace, *range(20))
    for one in database.insert_batch(traces, now=NOW, key="k"):
        database.delete(one.id)
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda _: database.insert_batch(traces, now=NOW, key="k"), range(4))
        )
    assert replies[1:] == replies[:1] * 3
    assert database.count() == 20


def test_concurrent_retries_store_once(database: Database, make_trace: Make) -> None:
    replies = []

    def post() -> None:
        replies.append(database.insert_batch(batch(make_trace, *range(50)), now=NOW, key="k"))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 8
    assert all(reply == replies[0] for reply in replies)
    assert database.count() == 50


def test_what_was_stored_is_there_after_opening_again(
    new_database_url: Callable[[], str], make_trace: Make
) -> None:
    url = new_database_url()
    for count in (1, 2):
        opened = Database(url)
        opened.insert_batch(batch(make_trace, 1), now=NOW)
        assert opened.count() == count
        opened.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_any_text_comes_back(database: Database, make_trace: Make, text: str) -> None:
    sent = ReasoningTrace.model_validate(make_trace(prompt=text, meta={text: [text]}))
    (stored,) = database.insert_batch([new_trace(sent)], now=NOW)
    found = database.get(stored.id)
    assert found is not None
    assert found.trace == sent


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///:memory:", "mysql://me:secret@host/db", "nonsense", "://secret"),
        *("postgresql://me:x@secret@host/db", "postgresql://me:x@y:secret@host/db"),
    ],
)
def test_refuses_other_urls_without_their_password(url: str) -> None:
    with pytest.raises(SpecError, match="expected sqlite:///FILE or postgresql://") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_names_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and they are rather long" * 100)
    with pytest.raises(DataError, match=r"notes\.txt: not an SQLite database; use another"):
        Database(f"sqlite:///{path}")


def test_names_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="the parent folder is a file"):
        Database(f"sqlite:///{tmp_path / 'file' / 'store.db'}")


def test_a_full_disk_is_a_sentence_and_stores_none(
    sqlite_file: Path, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = engine._prepare

    def tiny(connection: sqlite3.Connection, record: Any) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA max_page_count = 30")

    monkeypatch.setattr(engine, "_prepare", tiny)
    small = Database(f"sqlite:///{sqlite_file}")
    big = [new(make_trace(n, prompt="p" * 20_000)) for n in range(20)]
    with pytest.raises(Unavailable, match=r"store\.db: the disk is full; free some space"):
        small.insert_batch(big, now=NOW)
    assert small.count() == 0
    small.close()


def test_a_lock_that_stays_is_transient(
    sqlite_file: Path, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0)
    impatient = Database(f"sqlite:///{sqlite_file}")
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match="locked by another writer"):
        impatient.insert_batch(batch(make_trace, 1), now=NOW)
    other.close()
    impatient.close()


def test_a_server_that_refuses_is_a_sentence_without_the_password(postgres: Postgres) -> None:
    name = postgres.new_database()
    wrong = postgres.url(name, password="wr0ng-secret")
    with pytest.raises(
        PermissionDenied, match="the server refused this user or password"
    ) as caught:
        Database(wrong)
    assert "wr0ng-secret" not in str(caught.value)
    with pytest.raises(Unavailable, match="there is no such database; create it"):
        Database(postgres.url("nowhere"))
    with pytest.raises(Unavailable, match="cannot be reached; start PostgreSQL or fix"):
        Database(f"postgresql://postgres:secret@127.0.0.1:{free_port()}/x")


def test_a_server_that_dropped_its_clients_is_no_failed_request(
    postgres: Postgres, make_trace: Make
) -> None:
    database = Database(postgres.url(postgres.new_database()))
    database.insert_batch(batch(make_trace, 1), now=NOW)
    postgres.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tuneloop'"
    )
    database.insert_batch(batch(make_trace, 2), now=NOW)
    assert database.count() == 2
    database.close()


def test_replicas_with_clocks_apart_keep_the_order_of_arrival(
    new_database_url: Callable[[], str], make_trace: Make
) -> None:
    url = new_database_url()
    ahead, behind = Database(url), Database(url)
    ids = []
    for number, (database, now) in enumerate(
        [(ahead, NOW + timedelta(hours=1)), (behind, NOW), (ahead, NOW), (behind, NOW)]
    ):
        ids += [one.id for one in database.insert_batch(batch(make_trace, number, 9), now=now)]
    assert [one.id for one in behind.list(100)] == ids[::-1]
    ahead.close()
    behind.close()
