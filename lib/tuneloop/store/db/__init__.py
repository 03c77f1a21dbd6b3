"""The store's database: engine, tables, migrations and statements."""
