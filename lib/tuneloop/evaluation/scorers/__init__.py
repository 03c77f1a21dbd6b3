"""Scorers: was the answer right, wrong, or not there at all."""
