"""Parts of the delta report."""
