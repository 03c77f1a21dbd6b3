"""Importers of trace files that other tools wrote."""
