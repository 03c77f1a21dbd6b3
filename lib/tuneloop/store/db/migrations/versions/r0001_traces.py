"""Create the tables for traces, scores and idempotency keys.

SQLite files from versions without migrations are converted. The tables are spelled out here and not
imported from `tables.py`, because this migration must never change.
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

revision = "0001"
down_revision = None

_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ID = sa.Text().with_variant(UUID(as_uuid=False), "postgresql")
_JSON = sa.Text().with_variant(JSONB(), "postgresql")
_TIME = sa.BigInteger().with_variant(TIMESTAMP(timezone=True), "postgresql")
_OLD = ("traces", "scores", "idempotency")


def upgrade() -> None:
    """Create the tables, and move rows over from tables of versions without migrations."""
    unversioned = sa.inspect(op.get_bind()).has_table("traces")
    if unversioned:
        _set_aside()
    _create()
    if unversioned:
        _take_over()


def _create() -> None:
    op.create_table(
        "traces",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("id", _ID, nullable=False, unique=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("trace_version", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("meta", _JSON),
        sa.Column("payload", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_traces_created_at", "traces", ["created_at", "seq"])
    op.create_index(
        "ix_traces_source",
        "traces",
        ["source", "created_at", "seq"],
        sqlite_where=sa.text("source IS NOT NULL"),
        postgresql_where=sa.text("source IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        ops = {"meta": "jsonb_path_ops"}
        op.create_index(
            "ix_traces_meta", "traces", ["meta"], postgresql_using="gin", postgresql_ops=ops
        )
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_table(
        "scores",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("trace_id", _ID, sa.ForeignKey("traces.id", ondelete="CASCADE"), nullable=False),
        sa.Column("criteria", sa.Text, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("ix_scores_trace_id", "scores", ["trace_id"])


def _set_aside() -> None:
    """Rename the old tables and drop their indexes, whose names the new tables need."""
    inspector = sa.inspect(op.get_bind())
    for table in [name for name in _OLD if inspector.has_table(name)]:
        for index in inspector.get_indexes(table):
            if index["name"] and not index["name"].startswith("sqlite_"):
                op.drop_index(index["name"], table)
        op.rename_table(table, f"old_{table}")


def _take_over() -> None:
    bind = op.get_bind()
    driver: Any = bind.connection.dbapi_connection
    driver.create_function("tuneloop_source", 1, _source_of)
    columns = {
        "traces": ("seq, id, created_at, trace_version, meta, payload", ", source"),
        "idempotency": ("key, body_sha256, count, created_at", ""),
        "scores": ("seq, trace_id, criteria, score, details, created_at", ""),
    }
    inspector = sa.inspect(bind)
    for table, (names, more) in columns.items():
        if inspector.has_table(f"old_{table}"):
            made = ", tuneloop_source(meta)" if more else ""
            op.execute(f"INSERT INTO {table} ({names}{more}) SELECT {names}{made} FROM old_{table}")
    for table in ("old_scores", "old_idempotency", "old_traces"):
        op.execute(f"DROP TABLE IF EXISTS {table}")


def _source_of(meta: str | None) -> str | None:
    source = None if meta is None else json.loads(meta).get("source")
    return source if isinstance(source, str) and len(source.encode()) <= 255 else None


def downgrade() -> None:
    """Drop all tables, because this is the first revision."""
    for table in ("scores", "idempotency", "traces"):
        op.drop_table(table)
