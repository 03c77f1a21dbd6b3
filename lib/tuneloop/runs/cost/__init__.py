"""Chip-hours and money that a planned run takes at most."""
