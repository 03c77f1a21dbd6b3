"""Connections: behaviour that SQLite does not have by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tuneloop.store.db import engine


def locked(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = name
    return error


class Busy(sqlite3.Connection):
    """A connection that refuses to switch to WAL twice, as if another connection were switching."""

    refusals = 2

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.refusals:
            self.refusals -= 1
            raise locked("SQLITE_BUSY")
        return super().execute(sql, *parameters)


class Damaged(sqlite3.Connection):
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        raise locked("SQLITE_CORRUPT")


def test_a_new_file_that_others_open_too_is_waited_for(sqlite_file: Path) -> None:
    connection = sqlite3.connect(sqlite_file, factory=Busy)
    engine._prepare(connection, None)
    assert connection.refusals == 0
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_other_errors_are_not_tried_again(sqlite_file: Path) -> None:
    connection = sqlite3.connect(sqlite_file, factory=Damaged)
    with pytest.raises(sqlite3.OperationalError):
        engine._prepare(connection, None)
    connection.close()
