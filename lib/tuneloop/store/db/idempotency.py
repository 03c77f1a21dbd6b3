"""Idempotency keys: a request that is sent again stores nothing twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from tuneloop.errors import DataError
from tuneloop.store.db.tables import idempotency

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Insert constructs by dialect, because SQLAlchemy's generic insert has no ON CONFLICT."""


class IdempotencyConflict(DataError):
    """The idempotency key was used for other content."""


def remember(
    connection: Connection, key: str, sha256: str, count: int, time: datetime, *, kind: str
) -> datetime | None:
    """Record an idempotency key in a transaction that writes.

    If two writers use the same key, the second waits at the insert or at the lock until the first
    one commits or rolls back.

    Args:
        connection: the connection.
        key: the key, without spaces.
        sha256: digest of the content in hexadecimal.
        count: number of traces, labels or scores of the request.
        time: time of the first of them.
        kind: `traces`, `labels` or `scores`; each has keys of its own.

    Returns:
        None if the key is new, else the time that was recorded with it.

    Raises:
        IdempotencyConflict: the key was used for other content.
    """
    # Traces had keys before the other kinds, and no key of a client has a space.
    stored = key if kind == "traces" else f"{kind} {key}"
    values = {"key": stored, "body_sha256": sha256, "count": count, "created_at": time}
    take = _INSERT[connection.dialect.name](idempotency).on_conflict_do_nothing()
    if connection.execute(take.returning(idempotency.c.key), values).first() is not None:
        return None
    known = select(idempotency).where(idempotency.c.key == stored).with_for_update()
    row = connection.execute(known).one()
    if row.body_sha256 != sha256:
        raise IdempotencyConflict(
            f"Idempotency-Key {key!r} was used before for {row.count} other {kind}; use another"
            " key for another body"
        )
    recorded: datetime = row.created_at
    return recorded
