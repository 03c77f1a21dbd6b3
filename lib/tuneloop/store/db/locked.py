"""Traces that a transaction must keep until it has stored something about them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from tuneloop.errors import DataError
from tuneloop.store.db.tables import traces


class UnknownTraces(DataError):
    """Traces of a request are not in the store."""


def missing_traces(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Keep traces from being deleted until the transaction ends; return those that do not exist."""
    wanted = sorted(set(ids))
    known = select(traces.c.id).where(traces.c.id.in_(wanted)).with_for_update(key_share=True)
    return set(wanted) - set(connection.scalars(known))


def unknown_traces(ids: set[str]) -> UnknownTraces:
    """Create the error for traces that do not exist."""
    more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
    return UnknownTraces(f"Trace {min(ids)} not found{more}")
