"""Traces that a transaction must keep until it has stored something about them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from tuneloop.errors import DataError
from tuneloop.store.db.tables import traces


class UnknownTraces(DataError):
    """Traces of a request are not in the store."""


def lock_traces(connection: Connection, ids: Iterable[str]) -> None:
    """Keep traces from being deleted until the transaction ends.

    Raises:
        UnknownTraces: at least one of them does not exist.
    """
    wanted = sorted(set(ids))
    known = select(traces.c.id).where(traces.c.id.in_(wanted)).with_for_update(key_share=True)
    found = set(connection.scalars(known))
    missing = [each for each in wanted if each not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UnknownTraces(f"Trace {missing[0]} not found{more}")
