"""Verbs that act on runs that are under way."""
