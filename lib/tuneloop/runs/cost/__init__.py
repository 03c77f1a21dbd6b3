"""Chip-hours and money: at most, before a run, and measured, after it."""
