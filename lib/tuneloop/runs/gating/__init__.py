"""Judge finished runs by gates."""
