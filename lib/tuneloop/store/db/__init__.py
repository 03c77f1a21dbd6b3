"""The database: engine, tables, migrations, statements."""
