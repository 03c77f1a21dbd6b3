"""Add what datasets select traces by: reward, key of the prompt, and labels of reviewers.

The columns of earlier traces are computed from their payloads, which have neither a reward nor
earlier turns. SQLite adds a column at the end of a table only, so the table is made again, with the
payload as the last column: SQLite reads the columns after a long payload slowly.
"""

import hashlib
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

revision = "0002"
down_revision = "0001"

_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ID = sa.Text().with_variant(UUID(as_uuid=False), "postgresql")
_TIME = sa.BigInteger().with_variant(TIMESTAMP(timezone=True), "postgresql")
_INDEXES = (
    ("ix_traces_created_at", "traces"),
    ("ix_traces_source", "traces"),
    ("ix_scores_trace_id", "scores"),
)


def upgrade() -> None:
    """Add the columns and the table."""
    if op.get_bind().dialect.name == "postgresql":
        _extend_postgresql()
    else:
        _extend_sqlite()
    op.create_index("ix_traces_prompt_key", "traces", ["prompt_key", "seq"])
    op.create_table(
        "labels",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("trace_id", _ID, sa.ForeignKey("traces.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("ix_labels_trace_id", "labels", ["trace_id"])


def _extend_postgresql() -> None:
    op.add_column("traces", sa.Column("reward", sa.Float))
    op.add_column("traces", sa.Column("prompt_key", sa.Text))
    op.execute(
        "UPDATE traces SET prompt_key ="
        " left(encode(sha256(convert_to(payload::jsonb->>'prompt', 'UTF8')), 'hex'), 32)"
    )
    op.alter_column("traces", "prompt_key", nullable=False)


def _extend_sqlite() -> None:
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.create_function("tuneloop_prompt_key", 1, _key_of, deterministic=True)
    for index, table in _INDEXES:
        op.drop_index(index, table)
    for table in ("traces", "scores"):
        op.rename_table(table, f"old_{table}")
    op.create_table(
        "traces",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("trace_version", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("meta", sa.Text),
        sa.Column("reward", sa.Float),
        sa.Column("prompt_key", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "scores",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column(
            "trace_id", sa.Text, sa.ForeignKey("traces.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("criteria", sa.Text, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    before = "seq, id, created_at, trace_version, source, meta"
    op.execute(
        f"INSERT INTO traces ({before}, prompt_key, payload) SELECT {before},"
        " tuneloop_prompt_key(json_extract(payload, '$.prompt')), payload FROM old_traces"
    )
    op.execute("INSERT INTO scores SELECT * FROM old_scores")
    # Numbers of deleted traces are not used again.
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'traces'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq)"
        " SELECT 'traces', seq FROM sqlite_sequence WHERE name = 'old_traces'"
    )
    for table in ("old_scores", "old_traces"):
        op.drop_table(table)
    op.create_index("ix_traces_created_at", "traces", ["created_at", "seq"])
    op.create_index(
        "ix_traces_source",
        "traces",
        ["source", "created_at", "seq"],
        sqlite_where=sa.text("source IS NOT NULL"),
    )
    op.create_index("ix_scores_trace_id", "scores", ["trace_id"])


def _key_of(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def downgrade() -> None:
    """Remove what this revision has added."""
    op.drop_table("labels")
    op.drop_index("ix_traces_prompt_key", "traces")
    op.drop_column("traces", "prompt_key")
    op.drop_column("traces", "reward")
