"""Plans of runs: spec file, stages, base model, train step, and the table that people read."""
