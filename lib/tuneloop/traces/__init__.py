"""Reasoning traces: the schema, importers of trace files, the client of the store."""
