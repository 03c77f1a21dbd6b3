"""The condition that a trace has a `meta.source`."""

from __future__ import annotations

from sqlalchemy import ColumnElement

from tuneloop.store.db.codec import source_for_index
from tuneloop.store.db.select import has_value
from tuneloop.store.db.tables import traces


def has_source(source: str, dialect: str) -> ColumnElement[bool]:
    """Build the condition; it uses the column for sources unless this one is too long for it.

    Args:
        source: the value of `meta.source`.
        dialect: SQLAlchemy's name of the database.
    """
    if source_for_index(source) is None:
        return has_value(traces, "source", source, dialect)
    return traces.c.source == source
