"""Dataset to training examples: exclusions, duplicates, decontamination, files, report. No JAX."""
