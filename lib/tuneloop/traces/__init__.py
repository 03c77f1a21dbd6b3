"""The trace store: schema, database, HTTP API and client."""
