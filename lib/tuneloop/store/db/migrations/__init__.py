"""Alembic's migrations of the store's database; run by `traces.migrate`, never by hand."""
