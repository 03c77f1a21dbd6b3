"""Sampling runs: their plans."""
