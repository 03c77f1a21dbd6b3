"""Evaluation: eval sets, scorers, statistics and the delta report. Nothing here needs JAX."""
