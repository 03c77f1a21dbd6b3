"""Migrate the database when the store starts.

The first replica migrates while the others wait. The lock, the migrations and the new revision are
in one transaction, so a process that is killed leaves no partial migration.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, Table, Text, func, select
from sqlalchemy.schema import Column

from tuneloop.errors import SpecError
from tuneloop.store.db.engine import writing

HEAD = "0002"
"""The newest revision; a test compares it with the newest file under migrations/versions/."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x74756E65  # Any number would do, as long as all replicas use the same.

_version = Table("alembic_version", MetaData(), Column("version_num", Text))


def upgrade(engine: Engine, place: str) -> None:
    """Run all migrations that the database does not have yet.

    Raises:
        SpecError: a newer tuneloop migrated the database to a revision unknown here.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:  # Return early, because Alembic takes 0.3 s to import.
            return
    with writing(engine) as connection:
        # On SQLite, BEGIN IMMEDIATE already locks the database.
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        revision = _revision(connection)
        if revision != HEAD:
            _run(connection, revision, place)


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, _version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _run(connection: Connection, revision: str | None, place: str, target: str = HEAD) -> None:
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
            f"{place}: the tables have revision {revision}, expected {HEAD} or earlier; use the"
            " newer tuneloop version that migrated the database"
        )
    command.upgrade(config, target)
