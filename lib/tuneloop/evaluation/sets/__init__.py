"""Eval sets: questions with one right answer each."""
