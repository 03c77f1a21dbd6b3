"""Sweeps and rounds as groups of runs."""
