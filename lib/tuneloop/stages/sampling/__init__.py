"""Sampling: the prompts of the sample stage, its traces and its report."""
