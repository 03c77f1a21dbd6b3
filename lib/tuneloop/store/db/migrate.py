"""Migrate the database when the store starts.

The first replica migrates while the others wait. The lock, the migrations and the new revision are
one transaction, so a killed process leaves nothing behind.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, Table, Text, func, select
from sqlalchemy.schema import Column

from tuneloop.errors import SpecError
from tuneloop.store.db.engine import writing

HEAD = "0001"
"""The newest revision; a test holds it equal to the newest file under migrations/versions/."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x74756E65  # "tune": any number, the same in every replica

_version = Table("alembic_version", MetaData(), Column("version_num", Text))


def upgrade(engine: Engine, place: str) -> None:
    """Run the migrations that a database lacks.

    Raises:
        SpecError: a newer tuneloop has migrated it further than this one knows.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:  # Alembic takes 0.3 s to import
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE is such a lock
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        revision = _revision(connection)
        if revision != HEAD:
            _run(connection, revision, place)


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, _version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _run(connection: Connection, revision: str | None, place: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    try:
        known = revision is None or scripts.get_revision(revision) is not None
    except CommandError:
        known = False
    if not known:
        raise SpecError(
            f"{place}: its tables are of revision {revision}, expected {HEAD} at most; it belongs"
            " to a newer tuneloop, use that one"
        )
    command.upgrade(config, "head")
