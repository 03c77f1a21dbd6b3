"""Training examples of a run, one at a time, for the pages of the store."""
