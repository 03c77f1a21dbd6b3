"""Verbs that build datasets."""
