"""Trace files of other tools."""
