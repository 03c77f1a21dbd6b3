"""Export of a dataset to training examples: exclusions, duplicates, decontamination and report.

Nothing in this package needs JAX.
"""
