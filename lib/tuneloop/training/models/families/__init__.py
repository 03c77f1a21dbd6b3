"""Model families: one module each, same function names in each."""
