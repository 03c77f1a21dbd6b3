"""Chip-hours and money that runs have taken, and the prices of machines."""
