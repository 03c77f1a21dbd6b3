"""Reports of finished runs from their samples alone."""
