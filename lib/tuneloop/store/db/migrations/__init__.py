"""Alembic migrations of the store's database, run by `store.db.migrate` when the store starts."""
