"""The store's tables, for SQLite and PostgreSQL alike.

The migrations define the tables. Statements use this declaration, and a test compares the two. The
payload is text on both databases and comes back byte for byte. jsonb respells numbers, so it only
holds a copy of `meta` for filters.
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
"""Of `source`: an index of PostgreSQL takes no more than 2,700; longer ones are found by meta."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """A time from microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


def micros(time: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (time - _EPOCH) // _MICROSECOND


class UtcTime(TypeDecorator[datetime]):
    """A moment with its zone: timestamptz, or microseconds since 1970 where there is no such."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """What the column is."""
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if native else BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """What is sent."""
        return value if value is None or dialect.name == "postgresql" else micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """What is read."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else moment(value)


_SEQ = BigInteger().with_variant(Integer, "sqlite")
_ID = Text().with_variant(UUID(as_uuid=False), "postgresql")
# The engine's JSON serializer is the identity: what is bound is JSON text already.
_JSON = Text().with_variant(JSONB(none_as_null=True), "postgresql")

metadata = MetaData()
traces = Table(
    "traces",
    metadata,
    Column("seq", _SEQ, primary_key=True),  # the order of arrival; never used twice
    Column("id", _ID, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("trace_version", Text, nullable=False),
    Column("source", Text),  # meta.source where it is a short text, for lists
    Column("meta", _JSON),  # payload's meta once more, so that filters parse nothing else
    # Last, so that the other columns can be read without the overflow pages of a long payload.
    Column("payload", Text, nullable=False),  # the whole trace, canonical JSON
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

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),  # of the first trace; the others follow by 1 us
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
