"""Eval sets, scorers, statistics and the report: pure, without JAX."""
