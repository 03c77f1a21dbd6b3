"""Rounds: sample from a model, select, train arms on it, and judge whether the selection helped."""
