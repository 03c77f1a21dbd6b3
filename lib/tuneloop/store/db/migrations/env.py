"""Alembic's entry point; it migrates with the caller's connection and transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
