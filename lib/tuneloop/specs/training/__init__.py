"""The section `train` of a run's spec, and what it consists of."""
