"""Examples, rendering, tokens, SFT and generation. JAX stands in the modules that need it alone."""
