"""The store's tables, for both SQLite and PostgreSQL.

The migrations create the tables. Statements use these declarations, and a test compares the two.
The payload is text on both databases, so it is returned byte for byte. jsonb changes the spelling
of numbers, so it is only used for a copy of `meta` that filters read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

MAX_SOURCE_BYTES = 255
"""Maximum size of `source` in its own column. PostgreSQL's index entries are limited to about
2,700 bytes; longer sources are found through `meta`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """Convert microseconds since 1970 to a time, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


def micros(time: datetime) -> int:
    """Convert a time to microseconds since 1970, exactly."""
    return (time - _EPOCH) // _MICROSECOND


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC: timestamptz on PostgreSQL, microseconds since 1970 on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of the database."""
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if native else BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Convert a time to the value that is sent to the database."""
        return value if value is None or dialect.name == "postgresql" else micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Convert a value from the database to a time in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else moment(value)


_SEQ = BigInteger().with_variant(Integer, "sqlite")
_ID = Text().with_variant(UUID(as_uuid=False), "postgresql")
# Bound values are already JSON text, so the engine's JSON serializer returns them unchanged.
_JSON = Text().with_variant(JSONB(none_as_null=True), "postgresql")

metadata = MetaData()
traces = Table(
    "traces",
    metadata,
    Column("seq", _SEQ, primary_key=True),  # Order of arrival; numbers are never reused.
    Column("id", _ID, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("trace_version", Text, nullable=False),
    Column("source", Text),  # meta.source, if it is a short text; used to filter lists.
    Column("meta", _JSON),  # A copy of the payload's meta, so that filters need not parse it.
    Column("reward", Float),  # A copy of the payload's reward, to select traces by.
    Column("prompt_key", Text, nullable=False),  # What all traces of one prompt share.
    # The whole trace as canonical JSON. It is the last column, so that SQLite can read the other
    # columns without the overflow pages of a long payload.
    Column("payload", Text, nullable=False),
    Index("ix_traces_created_at", "created_at", "seq"),
    sqlite_autoincrement=True,
)
Index(
    "ix_traces_source",
    traces.c.source,
    traces.c.created_at,
    traces.c.seq,
    sqlite_where=traces.c.source.is_not(None),
    postgresql_where=traces.c.source.is_not(None),
)
Index(
    "ix_traces_meta",
    traces.c.meta,
    postgresql_using="gin",
    postgresql_ops={"meta": "jsonb_path_ops"},
).ddl_if(dialect="postgresql")

Index("ix_traces_prompt_key", traces.c.prompt_key, traces.c.seq)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("count", Integer, nullable=False),
    # Time of the first trace; each further trace is one microsecond later.
    Column("created_at", UtcTime, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column(
        "trace_id", _ID, ForeignKey("traces.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("criteria", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("details", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

# Only appended to: a later label of the same reviewer and name replaces an earlier one for readers.
labels = Table(
    "labels",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column(
        "trace_id", _ID, ForeignKey("traces.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),  # JSON
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),  # empty without one
    Column("created_at", UtcTime, nullable=False),
)
