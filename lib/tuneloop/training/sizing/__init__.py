"""Memory and time of a training step in closed form, without JAX."""
