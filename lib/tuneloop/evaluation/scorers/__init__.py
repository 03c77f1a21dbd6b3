"""Scorers, which judge an answer as correct, wrong or missing."""
