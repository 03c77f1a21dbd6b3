"""Specs of services outside the loop that a run reports to."""
