"""Reasoning traces: their schema, importers of trace files and the client of the trace store."""
