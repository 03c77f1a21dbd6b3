"""Servers that answer the questions of an evaluation."""
