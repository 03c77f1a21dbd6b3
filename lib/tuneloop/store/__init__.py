"""The trace store: an HTTP server on SQLite or PostgreSQL."""
