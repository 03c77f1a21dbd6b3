"""Eval sets: questions with one correct answer each."""
