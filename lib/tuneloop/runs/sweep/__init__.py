"""Sweeps: runs of one spec that differ in a few fields, planned, run and compared together."""
